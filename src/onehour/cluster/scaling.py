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
from onehour.cluster.worker import telling_why, train_worker
from onehour.config import ScaleConfig, TrainConfig
from onehour.data.prepare import Data
from onehour.errors import InputError, TrainingError
from onehour.recipe import Recipe, recipe_from
from onehour.training.parts import Parts, measure_parts
from onehour.training.run import Run, create_run
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

    @property
    def rest(self) -> float:
        """Seconds of that step beyond its parts; below zero where they overlap."""
        return self.step - self.parts.total()


@dataclass(frozen=True)
class Start:
    """Where the runs are kept, and what the workers run on. There is room for all of them."""

    folder: Path
    num_nodes: int
    num_cores: float


def run_sizes(
    recipe: Recipe, config: TrainConfig, scale: ScaleConfig, data: Data, sizes: Sequence[int], weak: bool
) -> Iterator[Start | int | dict[str, Any] | Measured]:
    """Train once for each of `sizes`, into runs in a new folder; yields the start, and for each size
    the number of workers, the rows of the run, and its measures.

    At a fixed global batch; or where `weak`, at one of `config.global_batch_size` samples for each worker. Ray starts
    once for all of them.

    Raises:
        InputError: there is no room for the most workers, or the name of the folder is in use; before the first training.
        TrainingError: a training cannot go on.
    """
    with ray_cluster(cluster_address(scale.address)):
        there = nodes()
        check_room(scale, sizes)
        whole = create_run(scale.runs, scale.name, f"scale-{recipe.name()}")
        with whole.lock():
            yield Start(whole.folder, len(there), sum(node.total.get("CPU", 0) for node in there))
            for workers in sizes:
                yield workers
                ours = at_size(config, workers, weak)
                place = replace(scale, workers=workers, runs=whole.folder, name=f"{workers}-workers")
                run = create_run(place.runs, place.name, recipe.name())
                run.describe(recipe, ours, place, data)
                for row in train_on_ray(recipe, ours, place, run, work=scale_worker):
                    yield row
                    if row.get("interrupted"):
                        return
                yield measured(run, workers, cpus_of_each(scale, workers, there), ours)


def at_size(config: TrainConfig, workers: int, weak: bool) -> TrainConfig:
    """The configuration at a number of workers: where `weak`, the batch grows with them."""
    return replace(config, global_batch_size=config.global_batch_size * (workers if weak else 1))


def check_room(scale: ScaleConfig, sizes: Sequence[int]) -> None:
    """Raise InputError if there is no room for the most workers."""
    there = nodes()
    for workers in sizes:
        if not largest_size(replace(scale, workers=workers), [workers], there, [node.total for node in there]):
            raise InputError(what_is_missing(replace(scale, workers=workers), workers, there, free=False))


def scale_worker(job: dict[str, Any]) -> None:
    """What each worker does: the training, and after it some steps that are taken apart."""
    train_worker(job)
    with telling_why(job):
        parts = measure_parts(recipe_from(job["recipe"]), TrainConfig(**job["config"]), take(**job["data"]))
        parts_file(Run(Path(job["run"]))).write_text(json.dumps(asdict(parts)))  # the same numbers on all workers


def measured(run: Run, workers: int, cores: float, config: TrainConfig) -> Measured:
    """What a run has measured."""
    rows = [row for row in run.rows() if "loss" in row]
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
