"""What is stored in the notebooks, in both languages: whole, in order, told twice alike, and in a form that reads well."""

import re
import socket
from pathlib import Path

import pytest
from reading import (
    CHINESE,
    ENGLISH,
    FOLDER,
    NUMBER,
    code_cells,
    code_without_comments,
    name_of,
    pictures,
    printed,
    prose,
    read,
    same_numbers,
    tagged,
)

from onehour.course import check

HAN = "[\u4e00-\u9fff]"
HEADING = r"(?m)^(#+ .*)(?=\s*((?:.+\n?)*))"  # and the paragraph after it
SENTENCE = r"[^#<|!>].*(?:[.:?!][)*\"]*(?:\s|$)|[。：？！])"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
each_notebook = pytest.mark.parametrize("path", ENGLISH + CHINESE, ids=name_of)
each_chapter = pytest.mark.parametrize("path", ENGLISH, ids=name_of)


def in_chinese(path):
    return read(FOLDER / "zh" / path.name)


def exercises(notebook):
    """The cells that check an answer: those where the reader writes, and those of the solutions."""
    checking = [cell for cell in code_cells(notebook) if re.search(r"^check\.", cell.source, re.MULTILINE)]
    return [cell for cell in checking if not tagged(cell, "solution")], solutions(notebook)


def solutions(notebook):
    return [cell for cell in code_cells(notebook) if tagged(cell, "solution")]


def checks_in(cells):
    return [name for cell in cells for name in re.findall(r"\bcheck\.(\w+_\d+)\(", cell.source)]


def words(texts):
    """The words of the texts, names and addresses of machines among them."""
    return {word.rstrip(".") for text in texts for word in re.findall(r"[\w.-]+", text)}


# The course


def test_twelve_chapters_in_both_languages():
    assert len(ENGLISH) >= 12
    assert [path.name for path in ENGLISH] == [path.name for path in CHINESE]


@pytest.mark.parametrize("chapters", [range(1, 9), range(9, 13)])
def test_the_chapters_are_read_in_an_hour(chapters):
    words = {path.stem: len(prose(read(path)).split()) for path in ENGLISH if int(path.stem[:2]) in chapters}
    assert sum(words.values()) <= 13_500, words


def test_all_notebooks_begin_with_the_same_cell():
    assert len({code_cells(read(path))[0].source for path in ENGLISH}) == 1


def test_every_check_is_used_by_a_solution():
    files = Path(check.__file__).parent.glob("*.py")
    there = {name for file in files for name in re.findall(rf"(?m)^def ({file.stem}_\d+)\(", file.read_text())}
    assert there == {name for path in ENGLISH for name in checks_in(solutions(read(path)))}


# Each notebook


@each_notebook
def test_the_outputs_are_stored_whole_and_in_order(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []


@each_notebook
def test_nothing_tells_of_the_machine_that_executed_it(path):
    notebook = read(path)
    assert notebook.metadata == METADATA
    text = path.read_text(encoding="utf-8")
    text = text.replace("/tmp/ray/session_latest", "")  # where Ray keeps its logs on every machine
    assert re.findall(r"(?<!\w)/(?:work|tmp|root|home|Users)\b.{0,9}", text) == []
    told, written = words(map(printed, code_cells(notebook))), words(cell.source for cell in notebook.cells)
    assert socket.gethostname() not in told - written  # a machine may be called ray, which is a word of the course
    assert {word for word in told if re.fullmatch(r"\d+\.\d+\.\d+\.\d+", word)} <= {"127.0.0.1", "0.0.0.0"}


@each_notebook
def test_a_notebook_is_small(path):
    assert path.stat().st_size < 400_000


@each_notebook
def test_a_sentence_follows_every_heading(path):
    cells = (cell.source if cell.cell_type == "markdown" else "<code>" for cell in read(path).cells)
    text = re.sub(r"```.*?```", "<code>", "\n\n".join(cells), flags=re.DOTALL)
    followed = re.findall(HEADING, text)
    assert followed
    assert [heading for heading, paragraph in followed if not re.match(SENTENCE, paragraph, re.DOTALL)] == []


@each_notebook
def test_exercises_are_open_and_their_solutions_folded_and_right(path):
    opened, solved = exercises(read(path))
    assert 3 <= len(solved) <= 5
    assert checks_in(opened) == checks_in(solved)
    chinese = path in CHINESE
    for cell in opened:
        assert printed(cell).startswith("还不对：" if chinese else "Not yet:"), cell.source
    for cell in solved:
        assert printed(cell).splitlines()[-1] == ("正确。" if chinese else "Right."), cell.source
        assert cell.source.startswith("# @title ")
        assert cell.metadata.jupyter.source_hidden
        assert cell.metadata.cellView == "form"


@each_notebook
def test_pictures_speak_the_language_of_the_notebook(path):
    drawn = [(cell, picture) for cell in code_cells(read(path)) for picture in pictures(cell)]
    assert drawn
    for cell, picture in drawn:
        text = " ".join(re.findall(r">([^<>]+)</t(?:ext|span)>", picture))
        names = set(re.findall(r"\w+", cell.source))  # which are the same in all languages, as numbers are
        if set(re.findall(r"[^\W\d_]{2,}", text)) - names:
            assert bool(re.search(HAN, text)) == (path in CHINESE), text


# Each chapter in Chinese


@each_chapter
def test_the_code_is_the_same_in_chinese(path):
    english, chinese = read(path), in_chinese(path)
    assert [cell.cell_type for cell in english.cells] == [cell.cell_type for cell in chinese.cells]
    for one, other in zip(code_cells(english), code_cells(chinese), strict=True):
        assert code_without_comments(one.source) == code_without_comments(other.source)
        assert one.metadata == other.metadata


@each_chapter
def test_the_chinese_notebook_has_stored_the_same_numbers(path):
    for one, other in zip(code_cells(read(path)), code_cells(in_chinese(path)), strict=True):
        if not tagged(one, "varies") and not printed(one).startswith("Not yet:"):
            english, chinese = (NUMBER.findall(printed(cell)) for cell in (one, other))
            assert same_numbers(english, chinese), one.source


@each_chapter
def test_the_prose_is_chinese(path):
    text = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)|https?://\S+", "", prose(in_chinese(path)), flags=re.DOTALL)
    han, letters = len(re.findall(HAN, text)), len(re.findall("[A-Za-z]", text))
    assert han > 2 * letters
