"""What can be set, one frozen dataclass for each concern.

The same fields are the options of the command line: `global_batch_size` is `--global-batch-size`. Nothing here imports
torch or ray, so that reading the options costs nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onehour.errors import InputError


def check(config: object, fits: Callable[[Any], bool], what: str, names: str) -> None:
    """Raise InputError unless each of these fields of `config` that is not None fits."""
    for name in names.split():
        value = getattr(config, name)
        if value is not None and not fits(value):
            raise InputError(f"{name} is {value}; it must be {what}.")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. Every size is global: it does not change with the number of workers."""

    num_epochs: int = 1
    """Passes over the training data."""
    num_steps: int | None = None
    """Optimizer steps; if given, num_epochs does not count."""
    global_batch_size: int = 32
    """Samples in one optimizer step, all workers together."""
    micro_batch_size: int | None = None
    """The most samples that go through the model at once on one worker; more are accumulated."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or stochastic gradient descent."""
    learning_rate: float = 1e-3
    """The highest learning rate of the schedule."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How the learning rate goes on after the warm-up: to zero at the last step, or constant."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises from zero."""
    momentum: float = 0.0
    """Momentum of sgd."""
    beta1: float = 0.9
    """Decay of adamw's first moment."""
    beta2: float = 0.95
    """Decay of adamw's second moment."""
    weight_decay: float = 0.0
    """Decay of the weights of matrices and convolutions; vectors do not decay."""
    clip: float | None = 1.0
    """Clip the norm of the whole gradient to this; None does not clip."""
    patience: int | None = None
    """Stop after this many evaluations without a lower held-out loss."""
    evaluate_every: int | None = None
    """Steps from one evaluation to the next; None evaluates at the end only."""
    checkpoint_every: int | None = None
    """Steps from one checkpoint to the next; None writes one at the end only."""
    log_every: int = 10
    """Steps from one report of the training loss to the next."""
    strategy: Literal["auto", "none", "ddp", "dp"] = "auto"
    """ddp: DistributedDataParallel; dp: DataParallel (one process, slow); auto: ddp when there are several workers."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Where the model lives; auto takes the first of cuda, mps and cpu that is there."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The type of the arithmetic in forward and backward; weights stay float32."""
    num_loader_processes: int = 0
    """Processes that load data for each worker; 0 loads in the worker itself."""
    seed: int = 123
    """Decides the initial weights, the order of the samples and their augmentation."""

    def __post_init__(self) -> None:
        check(self, lambda value: value > 0, "greater than 0", "num_epochs num_steps global_batch_size micro_batch_size "
              "learning_rate clip patience evaluate_every checkpoint_every log_every")  # fmt: skip
        check(self, lambda value: value >= 0, "0 or more", "warmup_steps weight_decay num_loader_processes")
        check(self, lambda value: 0 <= value < 1, "at least 0 and less than 1", "momentum beta1 beta2")


@dataclass(frozen=True)
class ScaleConfig:
    """On how much hardware a run trains, and where it is kept. None of it changes the result."""

    workers: int | None = None
    """Processes that train. 0: this process, without Ray. None: one for each GPU, or one where there is none."""
    gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: float | None = None
    """CPU cores of each worker. None: the cores of this machine shared equally; on a cluster 1."""
    address: str | None = None
    """Ray cluster to join, such as auto or ray://head:10001; inside a Ray job it is found by itself."""
    max_failures: int = 3
    """How often the run goes on from its last checkpoint after a worker has died."""
    name: str | None = None
    """Name of the run; None takes the next free one, such as gpt-3."""
    runs: Path = Path("runs")
    """Folder in which runs are kept."""
    resume: str | None = None
    """Name of a run that goes on from its newest good checkpoint."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 0, "0 or more", "workers max_failures")
        check(self, lambda value: value > 0, "greater than 0", "cpus_per_worker")


@dataclass(frozen=True)
class GenerateConfig:
    """How a trained language model continues a prompt."""

    prompt: str = "def "
    """The text to continue."""
    num_tokens: int = 500
    """Tokens to add."""
    temperature: float = 0.8
    """0 takes the likeliest token each time; higher is more varied."""
    top_k: int | None = 40
    """Draw among the k likeliest tokens; None among all."""
    seed: int = 1
    """Decides what is drawn."""
    runs: Path = Path("runs")
    """Folder in which runs are kept."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "at least 1", "num_tokens top_k")
        check(self, lambda value: 0 <= value < math.inf, "0 or more, and finite", "temperature")


@dataclass(frozen=True)
class PredictConfig:
    """What a trained model predicts, and where the predictions go."""

    input: Path | None = None
    """Arrow or Parquet file with the columns of the recipe's data; None predicts the held-out samples."""
    output: Path | None = None
    """Parquet file to write the predictions to; None shows the first ones."""
    runs: Path = Path("runs")
    """Folder in which runs are kept."""


@dataclass(frozen=True)
class ShowConfig:
    """Where runs are."""

    runs: Path = Path("runs")
    """Folder in which runs are kept."""
