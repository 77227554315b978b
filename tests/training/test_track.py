"""What TensorBoard and MLflow get of a run, read back by readers that are not ours."""

import json
import sqlite3
import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event

from onehour.cli import main
from onehour.training.mlflow import mlflow_uri


def events(run):
    """All events of a run, oldest file first: records of length, its checksum, data, its checksum."""
    found = []
    for path in sorted((run / "tensorboard").iterdir(), key=lambda path: path.name.rpartition(".")[2]):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(run, name):
    """Steps and values of a metric as TensorBoard shows them: where an attempt begins, what was beyond it is purged."""
    shown = {}
    for event in events(run):
        if event.HasField("session_log"):
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == name:
                assert event.step not in shown, "a step is there twice"
                shown[event.step] = value.simple_value
    return shown


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("sys.argv", ["onehour"])
    return tmp_path / "runs"


def train(runs, *options):
    main(["train", "toy", "--workers", "0", "--runs", str(runs), *options])


def test_tensorboard_has_every_metric_of_every_report(runs):
    train(runs, "--num-steps", "12")
    rows = rows_of(runs / "toy-1")
    assert scalars(runs / "toy-1", "loss") == pytest.approx({row["step"]: row["loss"] for row in rows})
    assert scalars(runs / "toy-1", "held_out_accuracy") == {10: 1.0, 12: 1.0}
    assert events(runs / "toy-1")[0].file_version == "brain.Event:2"


def test_steps_that_are_done_again_are_shown_once(runs):
    train(runs, "--num-steps", "12", "--checkpoint-every", "5", "--keep", "9")
    for step in (10, 12):
        (runs / "toy-1" / "checkpoints" / f"step_{step:07d}" / "checkpoint.json").unlink()
    main(["train", "--resume", "toy-1", "--workers", "0", "--runs", str(runs)])
    assert list(scalars(runs / "toy-1", "loss")) == list(range(1, 13))
    assert len(list((runs / "toy-1" / "tensorboard").iterdir())) == 2


def test_mlflow_has_options_and_metrics_and_goes_on(runs):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    train(runs, "--num-steps", "6", "--track", "mlflow")
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    [experiment] = [found for found in client.search_experiments() if found.name == "toy"]
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("toy-1", "FINISHED")
    assert (run.data.params["learning_rate"], run.data.params["recipe"]) == ("0.5", "toy")
    main(["train", "--resume", "toy-1", "--workers", "0", "--runs", str(runs), "--num-steps", "8"])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {one.step: one.value for one in history} == {row["step"]: row["loss"] for row in rows_of(runs / "toy-1")}
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert client.get_run(run.info.run_id).info.status == "FINISHED"


def test_a_training_that_fails_has_failed_in_mlflow(runs):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    with pytest.raises(SystemExit, match="1"):
        train(runs, "--learning-rate", "1e30", "--track", "mlflow")
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    [run] = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert run.info.status == "FAILED"


def test_a_training_that_is_stopped_at_once_is_killed_in_mlflow(runs, monkeypatch, capsys):
    client = pytest.importorskip("mlflow.tracking").MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("onehour.commands.train.drive", stopped)
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit, match="130"):
        train(runs, "--track", "mlflow")
    assert "Stopped; go on with: " in capsys.readouterr().err
    [run] = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert run.info.status == "KILLED"


def test_mlflow_that_is_gone_ends_no_training(runs, monkeypatch, capsys):
    client = pytest.importorskip("mlflow.tracking").MlflowClient
    from mlflow.exceptions import MlflowException

    def gone(*_, metrics=(), **__):
        if metrics:
            raise MlflowException("API request failed. Read on")

    monkeypatch.setattr(client, "log_batch", gone)
    train(runs, "--num-steps", "30", "--track", "mlflow")
    told = (
        f"MLflow at sqlite:///{runs}/mlflow.db takes no metrics (API request failed); the training goes on without it."
    )
    assert capsys.readouterr().out.count(told) == 1
    assert rows_of(runs / "toy-1")[-1]["step"] == 30


def test_metrics_are_sent_at_most_once_a_second_and_all_of_them(runs, monkeypatch):
    client, sent = pytest.importorskip("mlflow.tracking").MlflowClient, []
    monkeypatch.setattr("onehour.training.mlflow.SEND_SECONDS", 1e9)
    monkeypatch.setattr(client, "log_batch", lambda self, run_id, metrics=(), params=(): sent.append(metrics))
    train(runs, "--num-steps", "400", "--log-every", "1", "--evaluate-every", "None", "--track", "mlflow")
    steps = [metric.step for metrics in sent for metric in metrics if metric.key == "loss"]
    assert steps == [row["step"] for row in rows_of(runs / "toy-1")]
    assert max(map(len, sent)) == 1000


def test_a_folder_given_relatively_is_where_it_is_for_workers_too(runs, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    for uri, absolute in [
        ("sqlite:///m.db", f"sqlite:///{tmp_path}/m.db"),
        ("./mlruns", f"{tmp_path}/mlruns"),
        ("file:mlruns", f"file:{tmp_path}/mlruns"),
        ("sqlite:////tmp/m.db", "sqlite:////tmp/m.db"),
        ("file:///tmp/mlruns", "file:///tmp/mlruns"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("databricks", "databricks"),
    ]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert mlflow_uri() == absolute


def test_a_folder_takes_a_run_as_a_database_does(runs, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    train(runs, "--num-steps", "6", "--track", "mlflow")
    client = MlflowClient(f"file:{tmp_path}/mlruns")
    [run] = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert [one.step for one in client.get_metric_history(run.info.run_id, "loss")] == [
        row["step"] for row in rows_of(runs / "toy-1")
    ]


def test_a_store_that_cannot_be_written_is_told_before_the_training(runs, tmp_path, monkeypatch, capsys):
    client = pytest.importorskip("mlflow.tracking").MlflowClient
    uri = f"sqlite:///{tmp_path}/m.db"
    client(uri).create_experiment("toy")
    with sqlite3.connect(tmp_path / "m.db") as database:
        database.execute(
            "create trigger no before insert on experiment_tags begin select raise(abort, 'read only'); end"
        )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SystemExit, match="2"):
        train(runs, "--track", "mlflow")
    said = capsys.readouterr().err
    assert f"MLflow keeps nothing at {uri} (" in said and "read only" in said
    assert "Traceback" not in said and not runs.exists()


def test_a_run_that_mlflow_has_lost_is_told(runs, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    train(runs, "--num-steps", "6", "--track", "mlflow")
    (runs / "mlflow.db").unlink()
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--resume", "toy-1", "--workers", "0", "--runs", str(runs), "--num-steps", "8"])
    said = capsys.readouterr().err
    assert f"MLflow at sqlite:///{runs}/mlflow.db does not go on with toy-1 (" in said
    assert f"or remove {runs}/toy-1/mlflow.json to go on without it." in said


def test_a_store_that_cannot_be_reached_is_told_before_the_training(runs, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(SystemExit, match="2"):
        train(runs, "--track", "mlflow")
    assert (
        "MLflow keeps nothing at http://127.0.0.1:9 (Connection refused); set MLFLOW_TRACKING_URI to another place."
        in capsys.readouterr().err
    )
    assert not runs.exists()


def test_without_mlflow_the_extra_is_named(runs, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        train(runs, "--track", "mlflow")
    assert (
        "--track mlflow takes MLflow, which is not installed here: pip install 'onehour[mlflow]'."
        in capsys.readouterr().err
    )
