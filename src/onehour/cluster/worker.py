"""What each Ray worker does: the same `train`, with its reports handed to Ray."""

from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode

from onehour.config import TrainConfig
from onehour.recipe import recipe_from
from onehour.training.loop import train
from onehour.training.run import Run, keep


def train_worker(job: dict[str, Any]) -> None:
    """Run `train` in this worker of a TorchTrainer.

    Rank 0 keeps the run: the driver follows its metrics.jsonl. Ray is told of each checkpoint, which lies in the
    run's folder already; the call is also a barrier, so it is made once a checkpoint and not once a step.
    """
    run, start = Run(Path(job["run"])), job["start"]
    try:
        reports = train(recipe_from(job["recipe"]), TrainConfig(**job["config"]), start and Path(start))
        if ray.train.get_context().get_world_rank() == 0:
            reports = keep(reports, run)
        for report in reports:
            if report.checkpoint:
                checkpoint = Checkpoint(str(run.checkpoint_at(report.step)))
                ray.train.report(report.metrics, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
    except Exception as error:
        run.note_failure(error)
        raise
