"""Every notebook runs from top to bottom, in the copy that `onehour learn` opens, and prints what is stored in it."""

import os
import sys
from pathlib import Path

import pytest
from nbclient import NotebookClient
from reading import ENGLISH, FOLDER, code_cells, name_of, printed, read, same_text, tagged

from onehour.course.learn import copy_course

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the course: what a notebook reads has to be in it, and nothing is written into the clone."""
    folder = tmp_path_factory.mktemp("course")
    copy_course(folder)
    return folder


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", ENGLISH, ids=name_of)
def test_a_notebook_prints_what_is_stored_in_it(path, copy):
    stored = read(path)
    before = sorted(copy.rglob("*"))
    now = execute(read(copy / path.relative_to(FOLDER)), copy)
    assert complaints(now) == []
    assert differences(stored, now) == [], f"{path.name} prints something else than what is stored in it."
    assert sorted(copy.rglob("*")) == before, f"{path.name} leaves files behind."


def execute(notebook, folder):
    """Execute the notebook in `folder` by this interpreter, with this source; an exception in a cell ends it."""
    programs = os.path.dirname(sys.executable)
    env = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}})
    return client.execute(env=env)


def complaints(notebook):
    """What the cells have written to stderr."""
    outputs = (output for cell in code_cells(notebook) for output in cell.outputs)
    return [output.text for output in outputs if output.get("name") == "stderr"]


def differences(stored, now):
    """The cells, by number, whose text is another one now: what is stored, and what is printed now."""
    pairs = enumerate(zip(code_cells(stored), code_cells(now), strict=True), start=1)
    return [
        f"cell {number}: stored {printed(old)!r}, now {printed(new)!r}"
        for number, (old, new) in pairs
        if not tagged(old, "varies") and not same_text(printed(old), printed(new))
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("loss 0.0852", "loss 0.0853"),
        ("tensor([ 0.1234, 1.])", "tensor([-0.00001, 1.])".replace("-0.00001", "0.1235")),
        ("0.08516186475753784", "0.08516193"),
        ("99.4 %", "99.5  %"),
        ("2,213 parameters", "2,213 parameters\n"),
    ],
)
def test_texts_that_count_as_the_same(old, new):
    assert same_text(old, new)
    assert same_text(new, old)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("loss 0.0852", "loss 0.0854"),
        ("loss 0.0852", "lost 0.0852"),
        ("loss 0.0852", "loss"),
        ("loss 0.0852", "loss -0.0852"),
        ("0.08516186475753784", "0.08517"),
        ("0.1", "0.2"),
        ("1e-05", "2e-05"),
        ("tensor([1., 2.])", "tensor([2., 1.])"),
        ("2,213 parameters", "2,214 parameters"),
        ("float32", "float64"),
        ("Right.", "Not yet: look at its shape."),
    ],
)
def test_texts_that_differ(old, new):
    assert not same_text(old, new)
    assert not same_text(new, old)
