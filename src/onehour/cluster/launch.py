"""A run on Ray: TorchTrainer starts the workers; this process follows their metrics, and begins again after faults."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

# How often Ray's controller looks after its workers. Its default of 2 seconds would be added to the end of every run.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from onehour.cluster.preflight import check_resources
from onehour.cluster.worker import train_worker
from onehour.config import ScaleConfig, TrainConfig
from onehour.errors import InputError, TrainingError
from onehour.recipe import Recipe
from onehour.training.run import Run

FOLLOW_SECONDS = 0.05


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """A connection to Ray: the one there is, the cluster at `address`, or else a Ray of our own on this machine.

    Our own meets no other Ray on the machine, listens on loopback alone, and ends with the block.

    Raises:
        InputError: there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            stay_on_loopback()
            ray.init(address="local", include_dashboard=False, **quiet)
    except (ConnectionError, RayError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"Ray cannot be reached at {address or 'this machine'}: {reason}") from error
    try:
        yield
    except KeyboardInterrupt:
        # Not ray.shutdown: the trainer's thread still speaks with Ray, and would take this process down without a word.
        # A Ray of our own notices within seconds that this process has gone; its workers must not write until then.
        if not address:
            end_workers()
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def end_workers() -> None:
    """Kill the worker processes of the Ray that this process started."""
    node: Any = ray._private.worker._global_node
    (raylet,) = node.all_processes["raylet"]
    subprocess.run(["pkill", "-KILL", "-P", str(raylet.process.pid)], check=False)


def stay_on_loopback() -> None:
    """Let the Ray that this process starts next listen on 127.0.0.1 alone.

    ray.init replaces a loopback address by the machine's own, unless this variable, made for other systems, says no.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def train_on_ray(recipe: Recipe, config: TrainConfig, scale: ScaleConfig, run: Run) -> Iterator[dict[str, Any]]:
    """Train `recipe` in `run` by the workers that `scale` asks for; yields the rows of metrics.jsonl as they appear.

    A row {"warning": ...} tells of a fault. After one, new workers go on from the newest good checkpoint, up to
    `scale.max_failures` times; an exception that a worker raised twice in the same place is not tried again.

    Raises:
        InputError: the cluster cannot hold the workers, or they find the configuration wrong.
        TrainingError: the training cannot go on.
    """
    workers = scale.workers or 1
    with ray_cluster(scale.address or os.environ.get("RAY_ADDRESS")):
        cpus = check_resources(scale, workers)
        before: str | None = None
        for num_failures in range(scale.max_failures + 1):
            start, warnings = run.newest_checkpoint()
            yield from ({"warning": warning} for warning in warnings)
            run.failure_file.unlink(missing_ok=True)
            # Ray's own note of where it was. Without it Ray starts anew; where to go on, the checkpoints say themselves.
            (run.folder / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME).unlink(missing_ok=True)
            job = {
                "recipe": recipe.describe(),
                "config": asdict(config),
                "run": str(run.folder),
                "start": str(start) if start else None,
            }
            attempt = Attempt(job, scale, workers, cpus, run)
            yield from attempt.follow()
            if attempt.error is None:
                return
            before = diagnose(attempt.error, run, before, scale.max_failures - num_failures)
            yield {"warning": before}


class Attempt:
    """One TorchTrainer.fit, in a thread, so that this thread can follow what the workers write."""

    def __init__(self, job: dict[str, Any], scale: ScaleConfig, workers: int, cpus: float, run: Run) -> None:
        self.run = run
        self.error: Exception | None = None
        self.trainer = TorchTrainer(
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


def diagnose(error: Exception, run: Run, before: str | None, num_left: int) -> str:
    """What to tell about a failed attempt that is worth another one; `before` is what was told about the last.

    Raises:
        InputError, TrainingError: the worker said so, the same exception came twice, or there is no attempt left.
    """
    if not run.failure_file.is_file():
        told = f"A worker died ({str(error).strip().splitlines()[-1][:200]})"
    else:
        failure = json.loads(run.failure_file.read_text())
        for kind in (InputError, TrainingError):
            if failure["kind"] == kind.__name__:
                raise kind(failure["message"])
        told = f"A worker stopped with {failure['kind']}: {failure['message'].splitlines()[0]}"
        if told == before or num_left == 0:
            raise TrainingError(f"{failure['traceback']}\n{told}") from error
    if num_left == 0:
        raise TrainingError(f"{told}, and no attempt is left; go on with: onehour train --resume {run.name}") from error
    return told
