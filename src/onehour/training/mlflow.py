"""MLflow: a run's options and metrics in its database, on its server or in its folder, where they were asked for."""

import importlib.util
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from onehour import __version__
from onehour.errors import InputError
from onehour.training.run import Run, metrics_of

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # as with Ray, nothing leaves the machine unasked
# MLflow's defaults would let a server that is gone hold up a training for a quarter of an hour.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # whoever names a folder means it

SEND_SECONDS = 1.0
MOST_AT_ONCE = 1000  # metrics; MLflow refuses more
LONGEST = 6000  # characters of a parameter; MLflow refuses more


@contextmanager
def mlflow(run: Run) -> Iterator[Callable[[dict[str, Any]], str | None]]:
    """Hand rows to the MLflow run that `begin_in_mlflow` has begun, at most once a second.

    Where MLflow does not take them, it is told no more, and a warning says so: the training does not depend on it.
    """
    known = json.loads(mlflow_file(run).read_text())
    waiting: list[dict[str, Any]] = []
    sent, broken = 0.0, False

    def send() -> str | None:
        nonlocal sent, broken
        try:
            send_rows(known, waiting)
        except Exception as error:  # of MLflow, its database or its HTTP client; or it is not installed on this node
            broken = True
            return f"MLflow at {known['uri']} takes no metrics ({reason(error)}); the training goes on without it."
        waiting.clear()
        sent = time.monotonic()
        return None

    def tell(row: dict[str, Any]) -> str | None:
        if broken:
            return None
        waiting.append({"time": time.time(), **row})
        last = row["step"] == row["num_steps"]
        return send() if last or time.monotonic() - sent > SEND_SECONDS else None

    try:
        yield tell
    finally:
        if waiting and not broken and (warning := send()):
            run.note_warning(warning)


def send_rows(known: dict[str, str], rows: list[dict[str, Any]]) -> None:
    """Send the metrics of rows to a run of MLflow's; each row has its "time", too. Raises what MLflow raises."""
    from mlflow.entities import Metric

    metrics = [
        Metric(name, value, int(1000 * row["time"]), row["step"])
        for row in rows
        for name, value in metrics_of(row).items()
        if name != "time"
    ]
    for begin in range(0, len(metrics), MOST_AT_ONCE):
        mlflow_client(known["uri"]).log_batch(known["run_id"], metrics=metrics[begin : begin + MOST_AT_ONCE])


def mlflow_file(run: Run) -> Path:
    """mlflow.json in the run's folder: where MLflow keeps it, and under which id."""
    return run.folder / "mlflow.json"


def find_mlflow(runs: Path, experiment: str) -> str:
    """Where MLflow keeps its runs: $MLFLOW_TRACKING_URI, or else a database among the runs. The experiment is there then.

    Raises:
        InputError: MLflow is not installed, or nothing can be kept there.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise InputError("--track mlflow takes MLflow, which is not installed here: pip install 'onehour[mlflow]'.")
    uri = mlflow_uri() or f"sqlite:///{runs.absolute() / 'mlflow.db'}"
    try:
        client = mlflow_client(uri)
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        client.set_experiment_tag(number, "onehour", __version__)  # to see whether it can be written
    except Exception as error:  # of MLflow, its database or its HTTP client
        raise InputError(
            f"MLflow keeps nothing at {uri} ({reason(error)}); set MLFLOW_TRACKING_URI to another place."
        ) from error
    return uri


def mlflow_uri() -> str | None:
    """$MLFLOW_TRACKING_URI; of a file or folder by its absolute path, as workers are in other folders."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return None
    scheme = next((scheme for scheme in ("sqlite:///", "file:") if uri.startswith(scheme)), "")
    path = uri.removeprefix(scheme)
    return uri if path.startswith("/") or ":" in path or uri == "databricks" else f"{scheme}{Path(path).absolute()}"


def mlflow_client(uri: str) -> Any:
    """A client of the tracking server, file or database; MLflow's words about tables that it makes are left away."""
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


def reason(error: Exception) -> str:
    """The heart of MLflow's often long message: what the system said, such as Connection refused, or else a sentence."""
    text = str(error).strip()
    system = re.search(r"\[Errno -?\d+\] ([\w ]+)", text)
    return system[1] if system else text.partition("\n")[0].partition(". ")[0].removesuffix(".")


@contextmanager
def in_mlflow(run: Run, uri: str | None) -> Iterator[None]:
    """For the time of a training, a run of MLflow's: a new one where a `uri` is given, or the one that the run has.

    Raises:
        InputError: MLflow does not have it any more.
    """
    if mlflow_file(run).is_file():
        go_on_in_mlflow(run)
    elif uri:
        begin_in_mlflow(run, uri)
    else:
        yield
        return
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        known = json.loads(mlflow_file(run).read_text())
        with suppress(Exception):  # a warning has told that MLflow is gone
            mlflow_client(known["uri"]).set_terminated(known["run_id"], status)


def begin_in_mlflow(run: Run, uri: str) -> None:
    """Begin a run of MLflow's, with the options of this run."""
    from mlflow.entities import Param

    client, config = mlflow_client(uri), run.config()
    recipe = config["recipe"]["name"]
    options = {"recipe": recipe, **config["recipe"]["options"], **config["train"]}
    number = client.get_experiment_by_name(recipe).experiment_id
    begun = client.create_run(number, run_name=run.name).info.run_id
    client.log_batch(begun, params=[Param(name, str(value)[:LONGEST]) for name, value in options.items()])
    mlflow_file(run).write_text(json.dumps({"uri": uri, "run_id": begun}))


def go_on_in_mlflow(run: Run) -> None:
    """Go on with the run of MLflow's that this run has; $MLFLOW_TRACKING_URI says where it is by now.

    Raises:
        InputError: it is not there, or MLflow is not.
    """
    known = json.loads(mlflow_file(run).read_text())
    known["uri"] = mlflow_uri() or known["uri"]
    try:
        mlflow_client(known["uri"]).update_run(known["run_id"], status="RUNNING")
    except Exception as error:
        raise InputError(
            f"MLflow at {known['uri']} does not go on with {run.name} ({reason(error)}); set MLFLOW_TRACKING_URI to where "
            f"that run is, or remove {mlflow_file(run)} to go on without it."
        ) from error
    mlflow_file(run).write_text(json.dumps(known))
