"""A run on Ray: attempts until one ends well, each from the newest good checkpoint."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from onehour.cluster.address import cluster_address
from onehour.cluster.connect import ray_cluster
from onehour.cluster.preflight import check_resources
from onehour.config import ScaleConfig, TrainConfig
from onehour.errors import InputError, TrainingError
from onehour.recipe import Recipe
from onehour.training.run import Run


def train_on_ray(recipe: Recipe, config: TrainConfig, scale: ScaleConfig, run: Run) -> Iterator[dict[str, Any]]:
    """Train `recipe` in `run` by the workers that `scale` asks for; yields the rows of metrics.jsonl as they appear.

    A row {"warning": ...} tells of a fault. After one, new workers go on from the newest good checkpoint, up to
    `scale.max_failures` times; an exception that a worker raised twice in the same place is not tried again.

    Raises:
        InputError: the cluster cannot hold the workers, or they find the configuration wrong.
        TrainingError: the training cannot go on.
    """
    workers = scale.workers or 1
    address = cluster_address(scale.address)
    # An actor that asks each node whether it is to be taken away. A Ray of our own has this machine only.
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "1" if address else "0"
    with ray_cluster(address):
        from onehour.cluster.attempt import Attempt  # ray_cluster has a thread import what this one needs

        cpus = check_resources(scale, workers)
        before: str | None = None
        for num_failures in range(scale.max_failures + 1):
            start, warnings = run.newest_checkpoint()
            yield from ({"warning": warning} for warning in warnings)
            run.failure_file.unlink(missing_ok=True)
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
