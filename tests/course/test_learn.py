"""`onehour learn`: a copy of the course that is never written over, opened in JupyterLab."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_notebook, new_output

from onehour.cli import main
from onehour.course import learn
from onehour.errors import InputError

ROOT = Path(__file__).parents[2]
CHAPTERS = ["01_first.ipynb", "02_second.ipynb", "zh/01_first.ipynb"]
PICTURE = new_output("display_data", {"image/svg+xml": "<svg/>", "text/plain": "a picture"})


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a small course."""
    package = tmp_path / "package"
    for chapter in [*CHAPTERS, ".ipynb_checkpoints/01_first-checkpoint.ipynb"]:
        path = package / "notebooks" / chapter
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(nbformat.writes(new_notebook(cells=[new_code_cell(f"draw({chapter!r})", outputs=[PICTURE])])))
        path.chmod(0o444)
    monkeypatch.setattr(learn, "PACKAGE", package)
    return package


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """JupyterLab does not start; the commands that would start it, each with its folder."""
    opened = []
    monkeypatch.setattr(os, "execv", lambda program, command: opened.append((Path.cwd(), command[-1])))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.chdir(tmp_path)
    return opened


def test_the_copy_has_the_notebooks_and_may_be_changed(package, tmp_path):
    folder = tmp_path / "new" / "course"
    assert learn.copy_course(folder)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.ipynb")) == CHAPTERS
    assert all(path.stat().st_mode & 0o200 for path in folder.rglob("*.ipynb"))


def test_a_copy_that_is_there_is_kept_as_it_is(package, tmp_path, opened, capsys):
    main(["learn"])
    assert "The course is in onehour-course" in capsys.readouterr().out
    mine = tmp_path / "onehour-course" / "01_first.ipynb"
    mine.write_text("my answer")
    (tmp_path / "onehour-course" / "02_second.ipynb").unlink()
    os.chdir(tmp_path)
    main(["learn"])
    assert "onehour-course is kept as you left it" in capsys.readouterr().out
    assert mine.read_text() == "my answer"
    assert not (tmp_path / "onehour-course" / "02_second.ipynb").exists()


def test_jupyterlab_trusts_the_copy_and_so_shows_its_pictures_but_not_what_somebody_else_put_there(
    package, tmp_path, opened
):
    main(["learn"])
    copies = [nbformat.read(tmp_path / "onehour-course" / chapter, as_version=4) for chapter in CHAPTERS]
    assert all(NotebookNotary().check_signature(copy) for copy in copies)
    other = tmp_path / "onehour-course" / CHAPTERS[0]
    other.write_text(other.read_text().replace("<svg/>", "<svg onload='steal()'/>"))
    os.chdir(tmp_path)
    main(["learn"])
    assert not NotebookNotary().check_signature(nbformat.read(other, as_version=4))


@pytest.mark.parametrize(("language", "chapter"), [("en", "01_first.ipynb"), ("zh", "zh/01_first.ipynb")])
def test_it_begins_with_the_first_chapter_in_that_language(package, tmp_path, opened, language, chapter):
    main(["learn", "--language", language, "--folder", "mine"])
    assert opened == [(tmp_path / "mine", f"--LabApp.default_url=/lab/tree/{chapter}")]


def test_without_jupyterlab_it_says_how_to_install_it(package, tmp_path, opened, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        main(["learn"])
    assert end.value.code == 2
    assert "pip install 'onehour[learn]'" in capsys.readouterr().err
    assert not (tmp_path / "onehour-course").exists()


def test_a_folder_of_something_else_or_that_cannot_be_written(package, tmp_path):
    (tmp_path / "thesis.txt").write_text("my thesis")
    with pytest.raises(InputError, match="holds something else; choose another one by --folder"):
        learn.copy_course(tmp_path)
    with pytest.raises(InputError, match=r"cannot be kept in .*thesis.txt/course \((File exists|Not a directory)\)"):
        learn.copy_course(tmp_path / "thesis.txt" / "course")


def test_a_copy_without_the_chapters_of_that_language(package, tmp_path):
    learn.copy_course(tmp_path / "mine")
    (tmp_path / "mine/zh/01_first.ipynb").unlink()
    with pytest.raises(InputError, match=r"no notebook in .*mine/zh any more"):
        learn.first_chapter(tmp_path / "mine", "zh")


def test_jupyterlab_starts_on_loopback_and_shows_the_course_to_whoever_has_the_token(tmp_path):
    (tmp_path / "jupyter_server_config.json").write_text('{"ServerApp": {"open_browser": false}}')
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = os.environ | {f"JUPYTER_{name}_DIR": str(tmp_path) for name in ("CONFIG", "RUNTIME", "DATA")}
    env |= {"PYTHONPATH": str(ROOT / "src"), "JUPYTER_PORT": str(port), "JUPYTER_PORT_RETRIES": "0"}
    command = [sys.executable, "-m", "onehour", "learn", "--language", "zh", "--folder", str(tmp_path / "mine")]
    with open(tmp_path / "said", "w") as said:
        lab = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=said, stderr=subprocess.STDOUT)
    try:
        server = wait_for_server(tmp_path / f"jpserver-{lab.pid}.json", lab)
        assert server["hostname"] == "127.0.0.1"
        shown = ask(f"{server['url']}api/contents/zh?token={server['token']}")
        assert "01_tensors.ipynb" in [file["name"] for file in json.loads(shown)["content"]]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask(f"{server['url']}api/contents/zh")
    finally:
        lab.terminate()
        lab.wait(timeout=30)
    assert f"/lab/tree/zh/01_tensors.ipynb?token={server['token']}" in (tmp_path / "said").read_text()


def wait_for_server(described, process):
    """What Jupyter writes about its server, once that listens."""
    for _ in range(1800):
        assert process.poll() is None, (described.parent / "said").read_text()
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, ConnectionRefusedError):
            server = json.loads(described.read_text())
            socket.create_connection((server["hostname"], server["port"])).close()
            return server
        time.sleep(0.1)
    raise AssertionError("JupyterLab has not started in three minutes.")


def ask(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()
