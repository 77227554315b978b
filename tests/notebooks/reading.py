"""How the tests read a notebook: its cells, what they printed, and whether two printed texts tell the same."""

import io
import re
import tokenize
from decimal import Decimal
from pathlib import Path

import nbformat

FOLDER = Path(__file__).parents[2] / "notebooks"
ENGLISH = sorted(FOLDER.glob("[01]*.ipynb"))
CHINESE = sorted(FOLDER.glob("zh/[01]*.ipynb"))

# A number that begins no word and is no part of one: 2,213 and -0.0898 and 1e-05, the 3.4 of 3.4s, not the 32 of float32.
NUMBER = re.compile(r"(?<![\w.])(-?\d+(?:,\d{3})*(?:\.\d*)?(?:[eE][+-]?\d+)?)")


def name_of(path):
    """A notebook as the tests call it: 01_tensors or zh/01_tensors."""
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


def prose(notebook):
    """The text of the Markdown cells."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def printed(cell):
    """What a code cell has told as text. A picture has a text beside it, such as the name of its class."""
    texts = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts if text)


def pictures(cell):
    """The SVG pictures that are stored in a cell."""
    return [output.data["image/svg+xml"] for output in cell.outputs if "image/svg+xml" in output.get("data", {})]


def code_without_comments(source):
    """The tokens of a cell; magics such as %pip become strings first, as they are no Python."""
    if source.startswith("%%"):
        return source.splitlines()
    source = re.sub(r"(?m)^(\s*)([%!].*)$", lambda line: line[1] + repr(line[2]), source)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = (token for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL))
    return [(token.type, token.string.strip()) for token in code]  # the last line may end without a line break


def same_text(old, new):
    """Whether two printed texts have the same words, aside from white space, and numbers that count as the same."""
    old, new = NUMBER.split(old), NUMBER.split(new)
    same_words = [part.split() for part in old[::2]] == [part.split() for part in new[::2]]
    return same_words and same_numbers(old[1::2], new[1::2])


def same_numbers(old, new):
    return len(old) == len(new) and all(map(same_number, old, new))


def same_number(old, new):
    """Whether two printed numbers differ by no more than another order of the same sums explains.

    Integers, and what is printed without a digit after the point, have to be equal. Others may lie on two sides of
    where rounding turns: one unit of the last digit. If that is more than 1 %, they have to be equal, as 0.1 is no 0.2.
    Beyond five digits float32 holds no promise: a hundred-thousandth is always allowed.
    """
    old, new = Decimal(old.replace(",", "")), Decimal(new.replace(",", ""))
    size = max(abs(old), abs(new))
    if max(old.as_tuple().exponent, new.as_tuple().exponent) >= 0:
        return old == new
    unit = Decimal(1).scaleb(min(old.as_tuple().exponent, new.as_tuple().exponent))
    return abs(old - new) <= max(unit if unit * 100 <= size else 0, size / 100_000)
