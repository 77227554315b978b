"""--profile: a trace of exactly these steps, of every rank."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onehour.cli import main
from onehour.config import profiled_steps
from onehour.errors import InputError

LICENSE = Path(__file__).parents[2] / "LICENSE"
LAYERS = 3  # of toy's network


def names_in(path):
    with gzip.open(path) as file:
        return [event.get("name", "") for event in json.load(file)["traceEvents"]]


def assert_has_steps(path, number):
    """Forwards, backwards and optimizer steps of the network of toy, as many as of these steps and no other ones."""
    names = names_in(path)
    assert names.count("Optimizer.step#SGD.step") == number
    assert names.count("aten::linear") == names.count("AddmmBackward0") == number * LAYERS


def test_one_process(tmp_path, capsys):
    main(["train", "toy", "--workers", "0", "--runs", str(tmp_path), "--profile", "1:3"])
    profile = tmp_path / "toy-1" / "profile"
    assert_has_steps(profile / "rank_0.json.gz", 3)
    operations = json.loads((profile / "operations.json").read_text())
    assert len(operations) == 10 and operations[0]["seconds"] >= operations[-1]["seconds"] > 0
    assert f"{operations[0]['name'][:40]}  " in capsys.readouterr().out


def test_an_evaluation_before_the_steps_is_not_in_it(tmp_path):
    main(["train", "toy", "--workers=0", f"--runs={tmp_path}", "--evaluate-every=10", "--profile=11:12"])
    assert_has_steps(tmp_path / "toy-1" / "profile" / "rank_0.json.gz", 2)


def test_a_run_that_goes_on_counts_on_and_is_traced_only_if_asked_again(tmp_path, capsys):
    main(["train", "toy", "--workers=0", f"--runs={tmp_path}", "--num-steps=10", "--profile=10"])
    main(["train", "--resume=toy-1", "--workers=0", f"--runs={tmp_path}"])
    assert "profile" not in capsys.readouterr().out.split("nothing ")[1]
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--resume=toy-1", "--workers=0", f"--runs={tmp_path}", "--num-steps=20", "--profile=10:12"])
    assert (
        "--profile 10:12 begins at step 10, and the run has done 10 already; name later steps."
        in capsys.readouterr().err
    )
    main(["train", "--resume=toy-1", "--workers=0", f"--runs={tmp_path}", "--num-steps=20", "--profile=12:16"])
    assert_has_steps(tmp_path / "toy-1" / "profile" / "rank_0.json.gz", 5)


def test_a_training_that_ends_before_the_steps_says_so(tmp_path, capsys):
    options = "--num-steps=99 --evaluate-every=1 --patience=1 --learning-rate=1e-9 --profile=1:99"
    main(["train", "toy", "--workers=0", f"--runs={tmp_path}", *options.split()])
    out = capsys.readouterr().out
    assert "profile    none: the training ended at step " in out and ", before step 99\n" in out


def test_every_rank(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "onehour", "train", "toy",
         "--workers=0", f"--runs={tmp_path}", "--profile=1:2"],
        check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        trace = tmp_path / "toy-1" / "profile" / f"rank_{rank}.json.gz"
        assert_has_steps(trace, 2)
        assert any("allreduce" in name for name in names_in(trace))


def test_an_optimizer_inside_another_one_counts_once(tmp_path):
    done = "--num-steps=6 --depth=1 --context=16 --global-batch-size=2 --evaluate-every=None --checkpoint-every=None"
    options = [*done.split(), f"--text={LICENSE}", "--warmup-steps=0", "--optimizer=muon", "--profile=2:4"]
    main(["train", "gpt", "--workers", "0", "--runs", str(tmp_path), *options])
    names = names_in(tmp_path / "gpt-1" / "profile" / "rank_0.json.gz")
    assert names.count("Optimizer.step#Muon.step") == 3


@pytest.mark.parametrize(("text", "steps"), [("10:20", (10, 20)), ("3", (3, 3))])
def test_steps(text, steps):
    assert profiled_steps(text) == steps


@pytest.mark.parametrize("text", ["", "0:3", "5:2", "1:2:3", "ten"])
def test_what_are_no_steps(text):
    with pytest.raises(InputError, match="it must be steps, such as 10:20, from 1 on"):
        profiled_steps(text)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--profile 40:60", "--profile 40:60 ends at step 60, and the training at step 50; name earlier steps."),
        (
            "--dashboard",
            "--dashboard is for a Ray that the training starts, and --workers 0 has no Ray; leave it away.",
        ),
    ],
)
def test_what_there_would_be_nothing_to_see_of(options, says, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "toy", "--workers", "0", "--runs", str(tmp_path / "runs"), *options.split()])
    assert says in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_what_the_dashboard_takes_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "toy", "--runs", str(tmp_path / "runs"), "--dashboard"])
    assert (
        "--dashboard takes ray[default], which is not installed here: pip install 'onehour[cluster]'."
        in capsys.readouterr().err
    )
    assert not (tmp_path / "runs").exists()
