"""What each Ray worker does: the same `train`, kept by rank 0."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode

from onehour.cluster.desk import Away
from onehour.config import TrainConfig
from onehour.recipe import recipe_from
from onehour.training.keep import keep, keep_part, to_row
from onehour.training.loop import train
from onehour.training.profile import profiled
from onehour.training.run import Run, failure_of
from onehour.training.shared import take
from onehour.training.storage import settle


def train_worker(job: dict[str, Any]) -> None:
    """Run `train` in this worker of a TorchTrainer.

    Rank 0 keeps the run: the driver follows its metrics.jsonl. Checkpoints lie in the run's folder already, and Ray is
    told of the last one only: ray.train.report is a barrier that waits for the controller's next look.

    On a node that does not see the driver's folder, the run lives in a folder of the same name; it comes from the
    storage, and what the driver wants to know is handed in at the desk.
    """
    run, start = Run(Path(job["run"])), job["start"] and Path(job["start"])
    config, rank, desk = TrainConfig(**job["config"]), ray.train.get_context().get_world_rank(), desk_of(job)
    run.stacks.mkdir(parents=True, exist_ok=True)
    with (run.stacks / f"rank_{rank}.txt").open("w") as stacks, telling_why(job):

        def stop() -> bool:
            # Asked about once a second. If it is not, something hangs, here or in a worker that this one waits for.
            faulthandler.dump_traceback_later(job["hang_seconds"], exit=True, file=stacks)
            return rank == 0 and (ray.get(desk.stop.remote()) if desk else run.stop_file.exists())

        try:
            data = take(**job["data"])
            stop()
            if desk:
                settle(run, job["storage"], start)
            reports = train(recipe_from(job["recipe"]), config, start, stop, data)
            last = None
            with profiled(job["profile"], start, run.folder / "profile", rank):
                for report in keep(reports, run, config.keep, job["storage"]) if rank == 0 else keep_part(reports):
                    if rank == 0 and desk:
                        ray.get(desk.append.remote(to_row(report), report.trained))
                    last = report
            if last is None:  # a run that had reached its last step already
                return
            checkpoint = Checkpoint(str(run.checkpoint_at(last.step)))
            ray.train.report(last.metrics, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
        finally:
            faulthandler.cancel_dump_traceback_later()


def desk_of(job: dict[str, Any]) -> Any:
    """Where this worker hands in what the driver wants to know; None where it writes into the run's own folder."""
    away: Away | None = job["away"]
    return away.desk if away and ray.get_runtime_context().get_node_id() in away.nodes else None


@contextmanager
def telling_why(job: dict[str, Any]) -> Iterator[None]:
    """Let the driver know why this worker stops, if it does so by an exception of its own."""
    try:
        yield
    except Exception as error:
        if not lost_peer(error):
            if desk := desk_of(job):
                ray.get(desk.note_failure.remote(failure_of(error)))
            else:
                Run(Path(job["run"])).note_failure(failure_of(error))
        raise


def lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another worker has gone: a consequence, and no mistake of this one."""
    return isinstance(error, dist.DistBackendError) or (type(error) is RuntimeError and "gloo" in str(error))
