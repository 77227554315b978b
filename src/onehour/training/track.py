"""A run's numbers for the tools that people have open: TensorBoard, and MLflow where it was asked for.

Rank 0 writes both, from the rows that go into metrics.jsonl.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from onehour.training.mlflow import mlflow, mlflow_file
from onehour.training.run import Run, metrics_of


@contextmanager
def trackers(run: Run) -> Iterator[Callable[[dict[str, Any]], str | None]]:
    """A function that takes each row of metrics.jsonl, and returns a warning where MLflow takes no more."""
    with ExitStack() as stack:
        to_tensorboard = stack.enter_context(tensorboard(run))
        to_mlflow = stack.enter_context(mlflow(run)) if mlflow_file(run).is_file() else lambda row: None

        def tell_both(row: dict[str, Any]) -> str | None:
            to_tensorboard(row)
            return to_mlflow(row)

        yield tell_both


@contextmanager
def tensorboard(run: Run) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Write rows as scalars into the run's folder tensorboard.

    What an earlier attempt has written from the first step on counts as undone: TensorBoard then leaves it away. Events
    are written at once and not by a thread of tensorboardX, which would die of a full disk without a word.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

    writer: Any = None

    def tell(row: dict[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            (run.folder / "tensorboard").mkdir(exist_ok=True)
            writer = EventsWriter(str(run.folder / "tensorboard" / "events"), f".{time.time_ns()}")
            start = SessionLog(status=SessionLog.START)
            writer.write_event(Event(step=row["step"], wall_time=time.time(), session_log=start))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics_of(row).items()]
        writer.write_event(Event(step=row["step"], wall_time=time.time(), summary=Summary(value=values)))
        writer.flush()

    yield tell
    if writer is not None:
        writer.close()
