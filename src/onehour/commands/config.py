"""What can be set of the commands that do not train: one frozen dataclass for each.

Their fields are options as those of onehour.config are; nothing here imports torch or ray either.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onehour.config import check
from onehour.errors import InputError

if TYPE_CHECKING:
    from onehour.models.language import Choice


@dataclass(frozen=True)
class PrepareConfig:
    """By how many processes data are prepared, and where they are kept. None of it changes them."""

    workers: int = 0
    """Processes that prepare, on Ray, with a CPU core each. 0: this process, without Ray."""
    storage: str | None = None
    """Folder or URI, such as s3://bucket/runs, in which the data are kept under data/, for training with the same --storage.
    None: the cache of this machine."""
    address: str | None = None
    """Ray cluster to join, such as auto or ray://head:10001; inside a Ray job it is found by itself."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 0, "0 or more", "workers")


@dataclass(frozen=True)
class WritingConfig:
    """How a language model chooses what it writes."""

    num_tokens: int = 500
    """Tokens to add, at most."""
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

    def choice(self) -> "Choice":
        """The same for `onehour.models.language`, which imports torch."""
        from onehour.models.language import Choice

        return Choice(self.num_tokens, self.temperature, self.top_k, self.seed)


@dataclass(frozen=True)
class GenerateConfig(WritingConfig):
    """How a trained language model continues a prompt."""

    prompt: str = "def "
    """The text to continue."""
    prompts: Path | None = None
    """Text file with a prompt on each line, in place of one prompt; each becomes a line of JSON."""
    batch_size: int = 8
    """Prompts of the file that are continued at once."""
    chat: bool = False
    """Ask what the file has, each line in a conversation of its own, by the model's chat template."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, lambda value: value >= 1, "at least 1", "batch_size")


@dataclass(frozen=True)
class ChatConfig(WritingConfig):
    """How a trained language model answers."""

    system: str | None = None
    """What the model is told before the conversation; None leaves that to its chat template."""
    temperature: float = 0.2
    """0 takes the likeliest token each time; higher is more varied."""


@dataclass(frozen=True)
class CompareConfig(WritingConfig):
    """On what language models are compared."""

    prompts: Path | None = None
    """File with a prompt on each line; or .jsonl, whose lines have prompt, or question, choices and answer."""
    num_tokens: int = 60
    """Tokens to add, at most."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; higher is more varied."""


@dataclass(frozen=True)
class ExportConfig:
    """Where the model is written."""

    to: Path | None = None
    """New folder for config.json, model.safetensors and the tokenizer."""
    runs: Path = Path("runs")
    """Folder in which runs are kept."""


@dataclass(frozen=True)
class PredictConfig(WritingConfig):
    """What a trained model predicts, and where the predictions go."""

    input: Path | None = None
    """Arrow or Parquet file with the columns of the recipe's data, or for a folder of predictions also a folder of Parquet
    files; None predicts the held-out samples."""
    output: Path | None = None
    """Parquet file to write the predictions to, or a folder: there they are written part by part, and the same command goes
    on after a crash. None shows the first ones."""
    workers: int = 0
    """Processes that fill the folder, on Ray, with a CPU core each. 0: this process, without Ray."""
    column: str = "prompt"
    """Of a language model: the column of the prompts that it continues."""
    num_tokens: int = 100
    """Tokens to add, at most."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; higher is more varied."""
    batch_size: int = 8
    """Of a language model: prompts that are continued at once."""
    chat: bool = False
    """Of a language model: ask each prompt, in a conversation of its own, by the model's chat template."""
    address: str | None = None
    """Ray cluster to join, whose nodes reach the input, the run and the output by the same names; None starts one here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, lambda value: value >= 1, "at least 1", "batch_size")
        check(self, lambda value: value >= 0, "0 or more", "workers")


@dataclass(frozen=True)
class DoctorConfig:
    """What is examined."""

    recipe: str | None = None
    """Also work out how much memory a training of this recipe takes; its options may follow, such as --depth 12."""
    runs: Path = Path("runs")
    """Folder in which runs are kept."""


@dataclass(frozen=True)
class ShowConfig:
    """Where runs are."""

    runs: Path = Path("runs")
    """Folder in which runs are kept."""


@dataclass(frozen=True)
class ShowRunsConfig:
    """Which of their numbers are shown, and where they go."""

    runs: Path = Path("runs")
    """Folder in which runs are kept."""
    png: Path | None = None
    """PNG file for the picture. None: curve.png in the run's folder, if it is one run."""
    html: Path | None = None
    """HTML file for a page that holds everything, and needs no network."""

    def __post_init__(self) -> None:
        for option, suffix in (("png", ".png"), ("html", ".html")):
            path = getattr(self, option)
            if path is not None and path.suffix != suffix:
                raise InputError(
                    f"--{option} {path} would be a {option.upper()} file; call it {path.with_suffix(suffix)}."
                )


@dataclass(frozen=True)
class RunsConfig:
    """Whose runs."""

    runs: Path = Path("runs")
    """Folder in which runs are kept."""
    storage: str | None = None
    """Folder or URI, such as s3://bucket/runs, whose copies of runs are meant in place of the folder."""


@dataclass(frozen=True)
class RemoveConfig(RunsConfig):
    """Which runs, and whether to ask."""

    yes: bool = False
    """Remove without a question."""


@dataclass(frozen=True)
class LearnConfig:
    """Where the course is read, and in which language."""

    folder: Path = Path("onehour-course")
    """Folder of your copy of the notebooks; one that is there is kept as it is."""
    language: Literal["en", "zh"] = "en"
    """Begin with the first chapter in English, or in Chinese."""


@dataclass(frozen=True)
class ClusterConfig:
    """The Ray cluster of `onehour cluster start`: several nodes on this machine, for demos and tests."""

    nodes: int = 2
    """Ray nodes. Each is a few processes of this machine; the first is the head."""
    cpus_per_node: int = 2
    """CPU cores that each node promises, whatever the machine has."""
    port: int | None = None
    """Port of Ray on 127.0.0.1; None takes a free one."""
    dashboard_port: int | None = None
    """Port of the dashboard and of jobs on 127.0.0.1; None takes a free one."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "at least 1", "nodes cpus_per_node")
        check(self, lambda value: 1024 <= value < 65536, "from 1024 to 65535", "port dashboard_port")


@dataclass(frozen=True)
class SubmitConfig:
    """onehour submit [options] -- COMMAND ...: run a command of onehour as a job of a Ray cluster.

    The current folder goes along, without what .gitignore and .rayignore name. Ctrl-C ends the following, not the job.
    """

    address: str | None = None
    """Job server of the cluster, such as http://HEAD:8265. None: $RAY_API_SERVER_ADDRESS, or the cluster on this machine."""
    follow: bool = True
    """Print what the job says until it ends, and end with its exit code."""
    runtime_env: Path | None = None
    """YAML file of a Ray runtime environment that adds to that of onehour, such as its env_vars or pip."""


@dataclass(frozen=True)
class JobsConfig:
    """Whose jobs."""

    address: str | None = None
    """Job server of the cluster, such as http://HEAD:8265. None: $RAY_API_SERVER_ADDRESS, or the cluster on this machine."""
