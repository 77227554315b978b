"""The Chinese README says what the English one says: the same headings, code, messages, numbers and links."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))

BLOCK = re.compile(r"^```[^`]*^```|(?:^    .*\n)+", re.MULTILINE)  # fenced, or indented by four spaces
COMMANDS = ("onehour", "make", "python", "torchrun", "ray", "pip", "source", ".venv")
OTHER_LINKS = {"README.zh.md": "README.md", "https://d2l.ai": "https://zh.d2l.ai"}


def headings(text):
    return re.findall(r"^#+(?= )", BLOCK.sub("", text), re.MULTILINE)


def blocks(text):
    """Code without its comments; of the tree of the sources, whose words are translated, the names in each line."""
    for block in BLOCK.findall(text):
        if "src/onehour/\n" in block:
            yield [re.findall(r"[a-z_]+(?:\.py|/)", line) for line in block.splitlines()]
        else:
            yield re.sub(r"#.*", "#", block)


def spans(text):
    """What stands in backquotes in the prose and the tables."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def commands(text):
    return Counter(span for span in spans(text) if span.split()[0].startswith(COMMANDS))


def numbers(text):
    return Counter(re.findall(r"\d+(?:[.,]\d+)*", text))


def sections(text):
    """Numbers and what stands in backquotes, by section; a sentence may turn their order round."""
    return [(numbers(part), Counter(spans(part))) for part in re.split(r"^## ", text, flags=re.MULTILINE)]


def rows(text):
    """For each row of a table: how many cells it has, its numbers, and in order what stands in its backquotes."""
    lines = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    return [(line.count("|"), numbers(line), spans(line)) for line in lines]


def links(text):
    return re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", text))


def in_chinese(link):
    return OTHER_LINKS.get(link, re.sub(r"^notebooks(?=/|$)", "notebooks/zh", link))


def differences(english, chinese):
    """In what the two files differ, by name."""
    parts = (headings, lambda text: list(blocks(text)), commands, rows, sections)
    names = ("headings", "blocks", "commands", "rows", "sections")
    found = {name for name, part in zip(names, parts, strict=True) if part(english) != part(chinese)}
    if [in_chinese(link) for link in links(english)] != links(chinese):
        found.add("links")
    return found


def missing(text):
    """Links to what is not there. Before the course is there, the form of a link to it must do."""
    relative = [link for link in links(text) if "://" not in link]
    course = (ROOT / "notebooks" / "zh").is_dir()
    form = re.compile(r"notebooks/zh(/\d\d_[a-z_]+\.ipynb)?")
    return [link for link in relative if not ((not course and form.fullmatch(link)) or (ROOT / link).exists())]


def test_both_say_the_same():
    assert headings(CHINESE) == headings(ENGLISH)
    assert list(blocks(CHINESE)) == list(blocks(ENGLISH))
    assert commands(CHINESE) == commands(ENGLISH)
    assert rows(CHINESE) == rows(ENGLISH)
    assert sections(CHINESE) == sections(ENGLISH)
    assert links(CHINESE) == [in_chinese(link) for link in links(ENGLISH)]


def test_every_relative_link_leads_somewhere():
    assert missing(CHINESE) == []
    assert missing("[1](notebooks/zh/1.ipynb) [2](docs/none.png)") == ["notebooks/zh/1.ipynb", "docs/none.png"]


@pytest.mark.parametrize(
    ("pattern", "changed", "expected"),
    [
        (r"^## .*\n", "", "headings"),
        (r"^## ", "### ", "headings"),
        (r"--depth 4 ", "--depth 5 ", "blocks"),
        (r"    make learn .*\n", "", "blocks"),
        (r"  loss \d\.", "  loss 9.", "blocks"),
        (r"preflight\.py", "flight.py", "blocks"),
        (r"`python bench/chaos\.py`", "`python bench/chaos`", "commands"),
        (r"`make bench`", "", "commands"),
        (r"[\d.]+（gzip -9", "9.9（gzip -9", "rows"),
        (r"There is no recipe 'digit'", "There is no 'digit'", "rows"),
        (r"^\| `onehour audit toy-1` .*\n", "", "rows"),
        (r"\d+ 秒，除非", "7 秒，除非", "sections"),
        (r"`--keep 3`", "", "sections"),
        (r"\(README\.md\)", "(README.zh.md)", "links"),
        (r"notebooks/zh/09_ray", "notebooks/09_ray", "links"),
    ],
)
def test_a_difference_is_found(pattern, changed, expected):
    broken, count = re.subn(pattern, changed, CHINESE, count=1, flags=re.MULTILINE)
    assert count == 1
    assert expected in differences(ENGLISH, broken)
