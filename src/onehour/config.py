"""What can be set, one frozen dataclass for each concern.

The same fields are the options of the command line: `global_batch_size` is `--global-batch-size`. Nothing here imports
torch or ray, so that reading the options costs nothing.
"""

import re
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


def seconds(time: str) -> float:
    """A time such as 90s, 10m or 2h in seconds.

    Raises:
        InputError: it is not of that form.
    """
    form = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", time)
    if form is None:
        raise InputError(f"{time!r} is no time; write it as 90s, 10m or 2h.")
    return float(form[1]) * {"s": 1, "m": 60, "h": 3600}[form[2]]


def profiled_steps(text: str) -> tuple[int, int]:
    """The first and the last step of such as 10:20, or 10 for one.

    Raises:
        InputError: it is not of that form.
    """
    form = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    first, last = (int(form[1]), int(form[2] or form[1])) if form else (0, 0)
    if not 1 <= first <= last:
        raise InputError(f"profile is {text}; it must be steps, such as 10:20, from 1 on.")
    return first, last


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
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """AdamW; Muon for the matrices in a model's layers and AdamW for the rest; or stochastic gradient descent."""
    learning_rate: float = 1e-3
    """The highest learning rate of the schedule."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How the learning rate goes on after the warm-up: to zero at the last step, or constant."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises from zero."""
    momentum: float = 0.0
    """Momentum of sgd."""
    beta1: float = 0.9
    """Decay of adamw's first moment, and of muon's only one."""
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
    evaluate_first: bool = False
    """Evaluate before the first step, too: what a pretrained model knows already."""
    checkpoint_every: int | str | None = None
    """From one checkpoint to the next: steps, or a time such as 10m; None writes one at the end only."""
    keep: int | None = 3
    """How many checkpoints stay: the newest, and beside them the one of the lowest held-out loss; None keeps all."""
    log_every: int = 10
    """Steps from one report of the training loss to the next."""
    strategy: Literal["auto", "none", "ddp", "fsdp", "dp"] = "auto"
    """ddp: every worker has all the weights; fsdp: each has a part of weights, gradients and moments; dp: DataParallel (one
    process, slow); auto: ddp when there are several workers."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Where the model lives; auto takes the first of cuda, mps and cpu that is there."""
    offload: bool = False
    """With --strategy fsdp: keep weights, gradients and moments in the CPU's memory, and copy a layer when it computes."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """The type of the arithmetic in forward and backward; weights stay float32. tf32: products of float32 numbers of which an
    NVIDIA GPU takes 10 bits of the fraction."""
    activation_checkpointing: bool = False
    """Let layers keep only their input for backward, and compute once more what it needs: less memory, more time."""
    compile: bool = False
    """Compile each layer with torch.compile: slower to start, faster after that."""
    num_loader_processes: int = 0
    """Processes that load data for each worker; 0 loads in the worker itself."""
    seed: int = 123
    """Decides the initial weights, the order of the samples and their augmentation."""
    reproducible: bool = False
    """The same bits in the weights at 1, 2, 4 and 8 workers: the global batch is cut into micro-batches of
    micro_batch_size (None: into 8, if it divides), whose gradients are added up in an order that stays the same."""
    audit: bool = False
    """Record which samples each worker trained in each step, for `onehour audit`."""
    audit_ids: bool = False
    """Record their ids, too, and not only a digest of them; implies audit."""

    def __post_init__(self) -> None:
        if isinstance(self.checkpoint_every, str):
            seconds(self.checkpoint_every)
        else:
            check(self, lambda value: value > 0, "greater than 0", "checkpoint_every")
        check(self, lambda value: value > 0, "greater than 0", "num_epochs num_steps global_batch_size micro_batch_size "
              "learning_rate clip patience evaluate_every keep log_every")  # fmt: skip
        check(self, lambda value: value >= 0, "0 or more", "warmup_steps weight_decay num_loader_processes")
        check(self, lambda value: 0 <= value < 1, "at least 0 and less than 1", "momentum beta1 beta2")
        if self.offload and self.strategy != "fsdp":
            raise InputError("--offload is for a model whose parts are spread over workers; add --strategy fsdp.")
        if self.reproducible and self.strategy in ("fsdp", "dp"):
            raise InputError(
                f"--reproducible adds up gradients in an order of its own, which --strategy {self.strategy} does not let "
                "it; leave out --strategy, so that it is ddp."
            )


@dataclass(frozen=True)
class ScaleConfig:
    """On how much hardware a run trains, where it is kept, and how it is watched. None of it changes the result."""

    workers: int | str | None = None
    """Processes that train. 0: this process, without Ray. None: one. 2:8: from 2 to 8, as many as there is room for."""
    gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: float | None = None
    """CPU cores of each worker. None: the cores of this machine shared equally; on a cluster 1."""
    address: str | None = None
    """Ray cluster to join, such as auto or ray://head:10001; inside a Ray job it is found by itself."""
    max_failures: int = 3
    """How often the run goes on from its last checkpoint after a worker has died."""
    wait: str | None = None
    """How long to wait for room on the cluster, such as 10m. None: at first not at all, after a fault 10m."""
    hang_timeout: str = "10m"
    """The longest that a step, an evaluation or a checkpoint may take on Ray; then the workers show their stacks and end."""
    name: str | None = None
    """Name of the run; None takes the next free one, such as gpt-3."""
    runs: Path = Path("runs")
    """Folder in which runs are kept."""
    storage: str | None = None
    """Folder or URI, such as s3://bucket/runs, to which the run is copied as it goes; --resume finds it there, too."""
    resume: str | None = None
    """Name of a run that goes on from its newest good checkpoint."""
    track: Literal["mlflow"] | None = None
    """Also tell MLflow, at $MLFLOW_TRACKING_URI or in mlflow.db among the runs. TensorBoard's files are in each run."""
    profile: str | None = None
    """Steps, such as 10:20, to be traced by torch's profiler on every worker."""
    dashboard: bool = False
    """Start Ray's dashboard for the time of the training, on this machine's own Ray."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 0, "0 or more", "max_failures")
        check(self, lambda value: value > 0, "greater than 0", "cpus_per_worker")
        for time in (self.wait, self.hang_timeout):
            seconds(time or "0s")
        self.sizes()
        if self.profile is not None:
            profiled_steps(self.profile)

    def sizes(self) -> range:
        """The numbers of workers that are wanted, such as range(2, 9) for 2:8.

        Raises:
            InputError: `workers` is neither a number nor a range.
        """
        least, colon, most = str(1 if self.workers is None else self.workers).partition(":")
        if not (least.isdigit() and (most if colon else "0").isdigit()):
            raise InputError(f"workers is {self.workers}; it must be a number, 0 or more, or a range such as 2:8.")
        if colon and not 1 <= int(least) <= int(most):
            raise InputError(f"workers is {self.workers}; a range must begin with 1 or more and not end before that.")
        return range(int(least), int(most if colon else least) + 1)


@dataclass(frozen=True)
class SearchConfig:
    """How hyperparameters are searched: which trials, how many at once, which go on."""

    trials: int | None = None
    """Trainings to try. None: 20, or with --searcher grid every combination."""
    space: tuple[str, ...] = ()
    """NAME=TEXT for each name that is not as the recipe says; TEXT is log(LOW, HIGH), uniform(LOW, HIGH), int(LOW, HIGH),
    int(LOW, HIGH, STEP), choice(A, B, ...), or a value, which fixes it."""
    space_file: Path | None = None
    """JSON or TOML file of such names and texts."""
    searcher: Literal["random", "grid", "optuna"] = "random"
    """Draw at random; try every combination of choices; or let Optuna's TPE draw, which learns from the trials so far."""
    scheduler: Literal["asha", "median", "pbt", "none"] = "asha"
    """Which trials are stopped early. asha: all but the best third, at steps that triple; median: those worse than most;
    pbt: none, but the worst go on with weights and changed values of the best."""
    minimize: str = "held_out_loss"
    """The metric that is to become small."""
    maximize: str | None = None
    """The metric that is to become large instead, such as held_out_accuracy."""
    time: str | None = None
    """Stop all trials after this time, such as 10m."""
    workers: int = 1
    """Processes that train in each trial, on Ray."""
    gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: float = 1.0
    """CPU cores of each worker."""
    at_once: int | None = None
    """Trials at the same time. None: as many as there is room for."""
    address: str | None = None
    """Ray cluster to join, such as auto or ray://head:10001; inside a Ray job it is found by itself."""
    name: str | None = None
    """Name of the search; None takes the next free one, such as search-digits-1."""
    runs: Path = Path("runs")
    """Folder in which searches and runs are kept."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "at least 1", "trials workers at_once")
        check(self, lambda value: value > 0, "greater than 0", "cpus_per_worker")
        seconds(self.time or "0s")

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return self.maximize or self.minimize


@dataclass(frozen=True)
class ScalingConfig:
    """At which numbers of workers a training is measured, and on how much hardware."""

    workers: tuple[int, ...] = (1, 2)
    """Numbers of workers, such as 1 2 4; the first is what the others are compared with."""
    strong: bool = False
    """The global batch stays, so the losses have to agree; unless --weak, this is what is done."""
    weak: bool = False
    """The global batch grows with the workers: global_batch_size is that of one."""
    simulate: str | None = None
    """More numbers of workers, such as 8,64,512,4096, worked out from what was measured."""
    gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: float | None = None
    """CPU cores of each worker. None: the cores of this machine shared equally; on a cluster 1."""
    address: str | None = None
    """Ray cluster to join, such as auto or ray://head:10001; inside a Ray job it is found by itself."""
    name: str | None = None
    """Name of the folder for its runs; None takes the next free one, such as scale-gpt-1."""
    runs: Path = Path("runs")
    """Folder in which runs are kept."""

    def __post_init__(self) -> None:
        check(self, lambda value: value > 0, "greater than 0", "cpus_per_worker")
        sizes = self.workers
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise InputError(
                f"workers is {' '.join(map(str, sizes))}; it must be numbers from 1 on that grow, such as 1 2 4."
            )
        if self.strong and self.weak:
            raise InputError("--strong keeps the global batch and --weak lets it grow; choose one of them.")
        self.simulated()

    def simulated(self) -> tuple[int, ...]:
        """The numbers of workers to be simulated.

        Raises:
            InputError: `simulate` is no list of them.
        """
        if self.simulate is None:
            return ()
        texts = self.simulate.replace(" ", "").split(",")
        if not all(re.fullmatch("[1-9][0-9]{0,8}", text) for text in texts):
            raise InputError(f"simulate is {self.simulate}; it must be numbers of workers, such as 8,64,512,4096.")
        return tuple(sorted(set(map(int, texts))))
