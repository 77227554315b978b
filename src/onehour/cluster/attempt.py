"""One attempt at a training: TorchTrainer starts the workers, and this process follows what they write."""

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

# How often Ray's controller looks after its workers. Its default of 2 seconds would be added to the end of every run.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from onehour.cluster.worker import train_worker
from onehour.config import ScaleConfig
from onehour.training.run import Run

FOLLOW_SECONDS = 0.05


class Trainer(TorchTrainer):
    """TorchTrainer without two actors that have nothing to do here.

    One serves Ray datasets, the other frees the workers' places after the controller, which Ray does, too. Each is a
    Python process, whose start takes 2 seconds of a core and whose idling takes 1 % of one.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, DatasetsCallback | PlacementGroupCleanerCallback)]


class Attempt:
    """One TorchTrainer.fit, in a thread, so that this thread can follow what the workers write."""

    def __init__(self, job: dict[str, Any], scale: ScaleConfig, workers: int, cpus: float, run: Run) -> None:
        # Ray's own note of where it was. Without it Ray starts anew; where to go on, the checkpoints say themselves.
        (run.folder / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME).unlink(missing_ok=True)
        self.run = run
        self.error: Exception | None = None
        self.trainer = Trainer(
            train_worker,
            train_loop_config=job,
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=scale.gpu,
                resources_per_worker={"CPU": cpus} | ({"GPU": 1} if scale.gpu else {}),
            ),
            run_config=RunConfig(name=run.name, storage_path=str(run.folder.parent)),
        )

    def fit(self) -> None:
        """Run the trainer; keep its error for the thread that follows."""
        try:
            self.trainer.fit()
        except Exception as error:  # any of them: an exception that ends this thread unseen would look like success
            self.error = error

    def follow(self) -> Iterator[dict[str, Any]]:
        """The rows that appear in metrics.jsonl until the trainer ends."""
        thread = threading.Thread(target=self.fit, daemon=True)
        self.run.metrics_file.touch()
        with self.run.metrics_file.open() as file:
            file.seek(0, os.SEEK_END)
            thread.start()
            running, rest = True, ""
            while running:
                running = thread.is_alive()  # asked before reading: what was written before the end is read, too
                *lines, rest = (rest + file.read()).split("\n")
                yield from (json.loads(line) for line in lines)
                thread.join(FOLLOW_SECONDS)
