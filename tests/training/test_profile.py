"""--profile: a trace of exactly these steps, of every rank."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from onehour.cli import main
from onehour.config import profiled_steps
from onehour.errors import InputError


def names_in(path):
    with gzip.open(path) as file:
        return [event.get("name", "") for event in json.load(file)["traceEvents"]]


def test_one_process(tmp_path, capsys):
    main(["train", "toy", "--workers", "0", "--runs", str(tmp_path), "--profile", "1:3"])
    profile = tmp_path / "toy-1" / "profile"
    names = names_in(profile / "rank_0.json.gz")
    assert names.count("Optimizer.step#SGD.step") == 3
    assert any("AddmmBackward" in name for name in names)
    operations = json.loads((profile / "operations.json").read_text())
    assert len(operations) == 10 and operations[0]["seconds"] >= operations[-1]["seconds"] > 0
    assert f"{operations[0]['name'][:40]}  " in capsys.readouterr().out


def test_every_rank(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "onehour", "train", "toy",
         "--workers=0", f"--runs={tmp_path}", "--profile=7:8"],
        check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
    )  # fmt: skip
    for rank in (0, 1):
        names = names_in(tmp_path / "toy-1" / "profile" / f"rank_{rank}.json.gz")
        assert names.count("Optimizer.step#SGD.step") == 2
        assert any("allreduce" in name for name in names)


def test_an_optimizer_inside_another_one_counts_once(tmp_path):
    done = "--num-steps=6 --width=16 --context=16 --global-batch-size=2 --evaluate-every=None --checkpoint-every=None"
    options = [*done.split(), "--warmup-steps=0", "--optimizer=muon", "--profile=2:4"]
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
        ("--profile 40:60", "--profile 40:60 ends at step 60, and 50 are left to train; name earlier ones."),
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
