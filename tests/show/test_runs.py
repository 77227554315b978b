"""onehour runs and onehour rm."""

import os
import pty
import subprocess
import sys

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from onehour.cli import main
from onehour.show.runs import summaries


def ends(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, capsys.readouterr().err.strip()


def test_a_line_for_each_run_the_latest_first(make_run, tmp_path, capsys):
    for i, (name, losses) in enumerate({"old": [4, 2, 1, 0.5], "half": [4, 2, 1], "new": []}.items()):
        run = make_run(name, losses)
        for file in (run.metrics_file, run.folder / "config.json"):
            os.utime(file, (1_000_000_000 + 60 * i,) * 2)
    (tmp_path / "runs" / "data").mkdir()  # is no run
    main(["runs", "--runs", str(tmp_path / "runs")])
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["run", "recipe", "state", "step", "loss", "changed"]
    assert [line[:5] for line in cells[1:]] == [
        ["new", "toy", "unfinished", "-", "-"],
        ["half", "toy", "unfinished", "30/40", "1.0000 training"],
        ["old", "toy", "done", "40/40", "0.2500 held out"],
    ]


def test_states(make_run, tmp_path):
    make_run("early", [1, 1, 1, 2, 3, 4], patience=1)
    training = make_run("training", [1, 2])
    code = "import sys; from onehour.training.run import Run; from pathlib import Path\n"
    code += "with Run(Path(sys.argv[1])).lock():\n    print(flush=True)\n    input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, training.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    files = SubTreeFileSystem(str(tmp_path / "runs"), LocalFileSystem())
    found = summaries(files, lambda name: name == "training" and training.is_locked())
    assert {one.name: one.state for one in found} == {"early": "done", "training": "training"}
    process.communicate(b"\n")
    assert not training.is_locked()


def test_none(tmp_path, capsys):
    main(["runs", "--runs", str(tmp_path)])
    assert capsys.readouterr().out == f"There is no run in {tmp_path} yet; train one by: onehour train gpt\n"
    main(["runs", "--runs", str(tmp_path / "runs")])
    assert capsys.readouterr().out.startswith(f"There is no run in {tmp_path / 'runs'} yet")


def test_a_place_that_cannot_be_listed(capsys):
    code, said = ends(capsys, "runs", "--storage", "floppy://runs")
    assert code == 2 and said.startswith("onehour: The runs in floppy://runs cannot be listed (")


def test_a_training_that_died_after_a_step_it_did_again_is_not_done(make_run, tmp_path):
    run = make_run("one", [3, 2, 1], patience=1)
    with run.metrics_file.open("a") as file:  # the same evaluation twice is no sign that the loss no longer falls
        file.write(run.metrics_file.read_text().splitlines()[1] + "\n")
    files = SubTreeFileSystem(str(tmp_path / "runs"), LocalFileSystem())
    assert [(one.state, one.step) for one in summaries(files)] == [("unfinished", "30/40")]


def test_removing(make_run, tmp_path, capsys):
    one, other = make_run("one", [1]), make_run("other", [1])
    runs = f"--runs={tmp_path / 'runs'}"
    code, said = ends(capsys, "rm", "one", "--yes", "two", runs)
    assert code == 2 and one.folder.exists()
    code, said = ends(capsys, "rm", "one", "two", "--yes", runs)
    assert code == 2 and "There is no run two" in said and "there are one, other." in said and one.folder.exists()
    code, said = ends(capsys, "rm", "othr", "--yes", runs)
    assert code == 2 and said.endswith("did you mean other?")
    code, said = ends(capsys, "rm", "one", runs)
    assert (code, said) == (2, f"onehour: Remove one from {tmp_path / 'runs'}, with all checkpoints? There is no terminal to "
                            "answer at; add --yes.")  # fmt: skip
    main(["rm", "one", "one", "--yes", runs])
    assert not one.folder.exists() and other.folder.exists()
    assert capsys.readouterr().out == "removed    one\n"


@pytest.mark.parametrize("name", [".", "", "..", "{}", "../model"])
def test_what_is_removed_are_runs_and_nothing_else(name, make_run, tmp_path, capsys):
    make_run("one", [1])
    model = tmp_path / "model"  # such as Hugging Face's
    for folder in (model, tmp_path, tmp_path / "runs"):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").touch()
    for place in ("--runs", "--storage"):
        code, said = ends(capsys, "rm", name.format(model), "--yes", place, str(tmp_path / "runs"))
        assert code == 2 and "There is no run " in said and model.exists() and (tmp_path / "runs" / "one").exists()


def test_a_run_that_is_being_trained_is_not_removed(make_run, tmp_path, capsys):
    run, other = make_run("one", [1]), make_run("other", [1])
    with run.lock():
        done = subprocess.run(
            [sys.executable, "-m", "onehour", "rm", "other", "one", "--yes", f"--runs={tmp_path / 'runs'}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2 and run.folder.exists() and other.folder.exists()
    assert done.stderr.startswith("onehour: The run one is being trained by another process")


@pytest.mark.parametrize(("answer", "stays"), [("y", False), ("n", True), ("", True)])
def test_the_question(answer, stays, make_run, tmp_path):
    run = make_run("one", [1])
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "onehour", "rm", "one", f"--runs={tmp_path / 'runs'}"],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.write(ours, f"{answer}\n".encode())
    out, err = process.communicate(timeout=60)
    assert out.startswith(f"Remove one from {tmp_path / 'runs'}, with all checkpoints? [y/N] ")
    assert run.folder.exists() == stays
    assert ("Nothing was removed." in err) == stays


def test_copies_in_a_storage(make_run, tmp_path, capsys, s3):
    from onehour.training.storage import open_storage, upload_small

    upload_small(open_storage(s3), make_run("copied", [4, 2, 1, 0.5]))
    main(["runs", "--storage", s3])
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["copied", "toy", "done", "40/40"]
    code, said = ends(capsys, "rm", "copied", "away", "--yes", "--storage", s3)
    assert code == 2 and "There is no run away in s3://" in said
    main(["rm", "copied", "--yes", "--storage", s3])
    capsys.readouterr()
    main(["runs", "--storage", s3])
    assert "There is no run in" in capsys.readouterr().out
