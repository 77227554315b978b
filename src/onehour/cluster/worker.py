"""What each Ray worker does: the same `train`, kept by rank 0."""

import faulthandler
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode

from onehour.config import TrainConfig
from onehour.recipe import recipe_from
from onehour.training.keep import keep, keep_part
from onehour.training.loop import train
from onehour.training.run import Run
from onehour.training.shared import take


def train_worker(job: dict[str, Any]) -> None:
    """Run `train` in this worker of a TorchTrainer.

    Rank 0 keeps the run: the driver follows its metrics.jsonl. Checkpoints lie in the run's folder already, and Ray is
    told of the last one only: ray.train.report is a barrier that waits for the controller's next look.
    """
    run, start = Run(Path(job["run"])), job["start"]
    config, rank = TrainConfig(**job["config"]), ray.train.get_context().get_world_rank()
    run.stacks.mkdir(exist_ok=True)
    with (run.stacks / f"rank_{rank}.txt").open("w") as stacks:

        def stop() -> bool:
            # Asked about once a second. If it is not, something hangs, here or in a worker that this one waits for.
            faulthandler.dump_traceback_later(job["hang_seconds"], exit=True, file=stacks)
            return rank == 0 and run.stop_file.exists()

        try:
            data = take(**job["data"])
            stop()
            reports = train(recipe_from(job["recipe"]), config, start and Path(start), stop, data)
            last = None
            for report in keep(reports, run, config.keep, job["storage"]) if rank == 0 else keep_part(reports):
                last = report
            if last is None:  # a run that had reached its last step already
                return
            checkpoint = Checkpoint(str(run.checkpoint_at(last.step)))
            ray.train.report(last.metrics, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
        except Exception as error:
            if not lost_peer(error):
                run.note_failure(error)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()


def lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another worker has gone: a consequence, and no mistake of this one."""
    return isinstance(error, dist.DistBackendError) or (type(error) is RuntimeError and "gloo" in str(error))
