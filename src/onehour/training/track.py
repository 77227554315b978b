"""A run's numbers for the tools that people have open: TensorBoard, and MLflow where it was asked for.

Rank 0 writes both, from the rows that go into metrics.jsonl.
"""

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from onehour.errors import InputError
from onehour.training.run import Run

Tell = Callable[[dict[str, Any]], None]
BESIDE = ("step", "num_steps", "samples")  # numbers of a row that are no metrics


@contextmanager
def trackers(run: Run) -> Iterator[Tell]:
    """A function that takes each row of metrics.jsonl."""
    with ExitStack() as stack:
        all_of_them = [stack.enter_context(tensorboard(run))]
        if mlflow_file(run).is_file():
            all_of_them.append(stack.enter_context(mlflow(run)))

        def tell_all(row: dict[str, Any]) -> None:
            for tell in all_of_them:
                tell(row)

        yield tell_all


def metrics_of(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of a row: its numbers, but for those that say where it stands."""
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name not in BESIDE}
    return {name: value for name, value in numbers.items() if not isinstance(value, bool)}


@contextmanager
def tensorboard(run: Run) -> Iterator[Tell]:
    """Write rows as scalars into the run's folder tensorboard.

    What an earlier attempt has written from the first step on counts as undone: TensorBoard then leaves it away. Events
    are written at once and not by a thread of tensorboardX, which would die of a full disk without a word.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

    (run.folder / "tensorboard").mkdir(exist_ok=True)
    writer: Any = None

    def tell(row: dict[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            writer = EventsWriter(str(run.folder / "tensorboard" / "events"), f".{time.time_ns()}")
            start = SessionLog(status=SessionLog.START)
            writer.write_event(Event(step=row["step"], wall_time=time.time(), session_log=start))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics_of(row).items()]
        writer.write_event(Event(step=row["step"], wall_time=time.time(), summary=Summary(value=values)))
        writer.flush()

    yield tell
    if writer is not None:
        writer.close()


@contextmanager
def mlflow(run: Run) -> Iterator[Tell]:
    """Hand rows to the MLflow run that `begin_mlflow` has begun."""
    from mlflow.entities import Metric

    known = json.loads(mlflow_file(run).read_text())
    client = mlflow_client(known["uri"])

    def tell(row: dict[str, Any]) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, row["step"]) for name, value in metrics_of(row).items()]
        client.log_batch(known["run_id"], metrics=metrics)

    yield tell


def mlflow_file(run: Run) -> Path:
    """mlflow.json in the run's folder: where MLflow keeps it, and under which id."""
    return run.folder / "mlflow.json"


def mlflow_uri(runs: Path) -> str:
    """Where MLflow keeps its runs: $MLFLOW_TRACKING_URI, or else a database among the runs.

    Raises:
        InputError: MLflow is not installed, or nothing can be kept there.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise InputError("--track mlflow takes MLflow, which is not installed here: pip install 'onehour[mlflow]'.")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # its default would try for minutes
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.absolute() / 'mlflow.db'}"
    try:
        mlflow_client(uri).search_experiments(max_results=1)
    except Exception as error:  # of MLflow, its database or its HTTP client
        told = str(error).strip().splitlines()[0]
        raise InputError(
            f"MLflow keeps nothing at {uri} ({told}); set MLFLOW_TRACKING_URI to another place."
        ) from error
    return uri


def mlflow_client(uri: str) -> Any:
    """A client of the tracking server, file or database; MLflow's words about tables that it makes are left away."""
    import logging

    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


@contextmanager
def in_mlflow(run: Run, uri: str | None) -> Iterator[None]:
    """For the time of a training, a run of MLflow's: a new one where a `uri` is given, or the one that the run has."""
    if uri is None and not mlflow_file(run).is_file():
        yield
        return
    begin_mlflow(run, uri)
    known = json.loads(mlflow_file(run).read_text())
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        mlflow_client(known["uri"]).set_terminated(known["run_id"], status)


def begin_mlflow(run: Run, uri: str | None) -> None:
    """Begin a run of MLflow's with the options of this run, or go on with the one that it has."""
    if mlflow_file(run).is_file():
        known = json.loads(mlflow_file(run).read_text())
        mlflow_client(known["uri"]).update_run(known["run_id"], status="RUNNING")
        return
    assert uri
    client, config = mlflow_client(uri), run.config()
    recipe = config["recipe"]["name"]
    experiment = client.get_experiment_by_name(recipe)
    number = experiment.experiment_id if experiment else client.create_experiment(recipe)
    begun = client.create_run(number, run_name=run.name)
    for name, value in {"recipe": recipe, **config["recipe"]["options"], **config["train"]}.items():
        client.log_param(begun.info.run_id, name, value)
    mlflow_file(run).write_text(json.dumps({"uri": uri, "run_id": begun.info.run_id}))
