"""The same training by different numbers of workers, one after the other, each taken apart into what a step consists of."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onehour.cluster.address import cluster_address
from onehour.cluster.connect import ray_cluster
from onehour.cluster.launch import train_on_ray
from onehour.cluster.preflight import cpus_of_each, largest_size, nodes, what_is_missing
from onehour.cluster.worker import train_worker
from onehour.config import ScaleConfig, TrainConfig
from onehour.data.prepare import Data
from onehour.errors import InputError, TrainingError
from onehour.recipe import Recipe, recipe_from
from onehour.training.parts import Parts, measure_parts
from onehour.training.run import Run
from onehour.training.shared import take


@dataclass(frozen=True)
class Measured:
    """A training of so many workers, and what came out."""

    workers: int
    cores: float
    """CPU cores of each worker."""
    global_batch_size: int
    losses: list[float]
    """Of each report, the first step's first."""
    samples_per_second: float
    """Median over the reports after the first."""
    parts: Parts

    @property
    def step(self) -> float:
        """Seconds of a step of the training."""
        return self.global_batch_size / self.samples_per_second


@dataclass(frozen=True)
class Machines:
    """What the workers run on."""

    num_nodes: int
    num_cores: float


def run_sizes(
    recipe: Recipe, config: TrainConfig, scale: ScaleConfig, data: Data, folder: Path, sizes: Sequence[int], weak: bool
) -> Iterator[dict[str, Any] | Measured | Machines]:
    """Train once for each of `sizes`, into runs in `folder`; yields what there is, the rows of each run, and its measures.

    At a fixed global batch; or where `weak`, at one of `config.global_batch_size` samples for each worker.

    Raises:
        InputError: there is no room for the most workers; found before the first training.
        TrainingError: a training cannot go on.
    """
    with ray_cluster(cluster_address(scale.address)):
        there = nodes()
        check_room(scale, sizes)
        yield Machines(len(there), sum(node.total.get("CPU", 0) for node in there))
        for workers in sizes:
            ours = replace(config, global_batch_size=config.global_batch_size * (workers if weak else 1))
            cores = cpus_of_each(scale, workers, there)
            run = Run(folder / f"{workers}-workers")
            run.folder.mkdir()
            run.describe(recipe, ours, replace(scale, workers=workers), data)
            for row in train_on_ray(recipe, ours, replace(scale, workers=workers), run, work=scale_worker):
                yield row
                if row.get("interrupted"):
                    return
            yield measured(run, workers, cores, ours)


def check_room(scale: ScaleConfig, sizes: Sequence[int]) -> None:
    """Raise InputError if there is no room for the most workers."""
    there = nodes()
    for workers in sizes:
        if not largest_size(replace(scale, workers=workers), [workers], there, [node.total for node in there]):
            raise InputError(what_is_missing(replace(scale, workers=workers), workers, there, free=False))


def scale_worker(job: dict[str, Any]) -> None:
    """What each worker does: the training, and after it some steps that are taken apart."""
    train_worker(job)
    parts = measure_parts(recipe_from(job["recipe"]), TrainConfig(**job["config"]), take(**job["data"]))
    parts_file(Run(Path(job["run"]))).write_text(json.dumps(asdict(parts)))  # the same numbers on all workers


def measured(run: Run, workers: int, cores: float, config: TrainConfig) -> Measured:
    """What a run has measured."""
    rows = run.rows()
    if not parts_file(run).is_file():
        raise TrainingError(
            f"The workers of {run.folder} have left no measures; they need a folder that all nodes share."
        )
    speed = statistics.median(row["samples_per_second"] for row in rows[1:] or rows)
    parts = Parts(**json.loads(parts_file(run).read_text()))
    return Measured(workers, cores, config.global_batch_size, [row["loss"] for row in rows], speed, parts)


def parts_file(run: Run) -> Path:
    """parts.json in the run's folder."""
    return run.folder / "parts.json"
