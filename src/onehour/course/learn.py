"""The course on the reader's machine: a copy of the notebooks that may be changed, opened in JupyterLab."""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from onehour.errors import InputError

PACKAGE = Path(__file__).parents[1]


def find_notebooks() -> Path:
    """The folder of the notebooks: in the installed package, or in the clone that the package lies in."""
    inside = PACKAGE / "notebooks"
    return inside if inside.exists() else PACKAGE.parents[1] / "notebooks"


def copy_course(folder: Path) -> bool:
    """Copy the notebooks to `folder`; False if there are chapters already, which are kept as they are.

    Raises:
        InputError: the folder cannot be written, or holds something else.
    """
    if list(folder.glob("*.ipynb")):
        return False
    try:
        if folder.exists() and list(folder.iterdir()):
            raise InputError(f"The folder {folder} holds something else; choose another one by --folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:  # so that a copy is whole, or not there
            whole = Path(partial) / folder.name
            # Contents without permissions, so that a copy of what only an administrator may write can be written.
            leave = shutil.ignore_patterns(".*", "__pycache__")
            shutil.copytree(find_notebooks(), whole, ignore=leave, copy_function=shutil.copyfile)
            whole.rename(folder)
    except OSError as error:
        why = error.strerror or "not everything could be copied"
        raise InputError(
            f"The course cannot be kept in {folder} ({why}); choose another folder by --folder."
        ) from error
    return True


def trust(folder: Path) -> None:
    """Sign the notebooks in `folder` in the reader's name.

    Of a notebook that nobody has signed or run here, JupyterLab shows neither the stored pictures nor the tables.
    """
    from nbformat import read
    from nbformat.sign import NotebookNotary

    notary = NotebookNotary()
    for path in folder.rglob("*.ipynb"):
        notary.sign(read(path, as_version=4))


def first_chapter(folder: Path, language: str) -> Path:
    """The notebook of the copy in `folder` to begin with, relative to it."""
    chapters = folder / "zh" if language == "zh" else folder
    found = sorted(chapters.glob("*.ipynb"))
    if not found:
        raise InputError(f"There is no notebook in {chapters} any more; choose another --folder for a fresh copy.")
    return found[0].relative_to(folder)


def open_course(folder: Path, language: str) -> NoReturn:
    """Copy the course if it isn't there yet, say so, and become JupyterLab, on loopback and with its token."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise InputError("The course opens in JupyterLab, which is not installed: pip install 'onehour[learn]'.")
    if copy_course(folder):
        trust(folder)
        print(f"The course is in {folder}: a copy for you to change.")
    else:
        print(f"The course in {folder} is kept as you left it; name another --folder for a fresh copy.")
    chapter = first_chapter(folder, language)
    print("JupyterLab opens it in your browser, or at the address below; Ctrl-C ends it.", flush=True)
    programs = os.path.dirname(sys.executable)  # where a cell finds torchrun and onehour
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    os.chdir(folder)
    os.execv(sys.executable, lab_command(chapter))


def lab_command(chapter: Path) -> list[str]:
    """The command that opens `chapter`, relative to the current folder, in JupyterLab."""
    return [
        sys.executable, "-m", "jupyterlab", "--log-level=WARN", "--ServerApp.ip=127.0.0.1",
        "--KernelManager.transport_encryption=auto",  # without it every kernel warns in the terminal
        "--allow-root",  # which counts for root alone: whoever works as root, as in a container, has chosen to
        f"--LabApp.default_url=/lab/tree/{chapter.as_posix()}",
    ]  # fmt: skip
