"""How a training on Ray is watched: Ray's dashboard, MLflow, TensorBoard's files, a trace of every rank."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest


def steps_in(trace):
    with gzip.open(trace) as file:
        return [event.get("name") for event in json.load(file)["traceEvents"]].count("Optimizer.step#SGD.step")


def test_one_training_is_seen_everywhere(tmp_path):
    client = pytest.importorskip("mlflow.tracking").MlflowClient(f"sqlite:///{tmp_path}/m.db")
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "onehour", "train", "toy", "--num-steps=200000", "--evaluate-every=1000", "--workers=2",
         "--cpus-per-worker=0.5", "--dashboard", "--track=mlflow", "--profile=5:7"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": "sqlite:///m.db"},
    )  # fmt: skip
    try:
        said = ""
        while "held out:" not in said:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        form = r"^dashboard  (http://127.0.0.1:\d+), with the token in (\S+), until the training ends$"
        address, token = re.search(form, said, re.MULTILINE).groups()
        headers = {"Authorization": f"Bearer {Path(token).expanduser().read_text().strip()}"}
        with urlopen(Request(f"{address}/api/train/v2/runs/v1", headers=headers)) as answer:
            trainings = json.load(answer)["train_runs"]
        assert [(training["name"], training["status"]) for training in trainings] == [("toy-1", "RUNNING")]
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 130
    folder = tmp_path / "runs" / "toy-1"
    assert [steps_in(folder / "profile" / f"rank_{rank}.json.gz") for rank in (0, 1)] == [3, 3]
    assert len(list((folder / "tensorboard").iterdir())) == 1
    [run] = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert (run.info.run_name, run.info.status) == ("toy-1", "KILLED")
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == steps
