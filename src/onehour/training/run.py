"""A run is a folder: what was asked for, every report, the checkpoints.

runs/gpt-1/
    config.json      recipe, configuration, versions
    data/            what the recipe prepared beside the samples: data.json, a tokenizer, weights to begin with
    metrics.jsonl    every report, a line each; a resumed run appends
    warnings.jsonl   faults, and whatever else was told beside the training, a line each
    audit.jsonl      with --audit: which samples were trained
    checkpoints/     step_0000500, step_0001000, ...
    tensorboard/     the reports, for TensorBoard
    mlflow.json      with --track mlflow: where MLflow keeps the run
    profile/         with --profile: a trace of each rank, and the longest operations
    curve.png        the losses as a picture
"""

import difflib
import json
import os
import re
import shutil
import time
import traceback
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from onehour import __version__
from onehour.config import ScaleConfig, TrainConfig
from onehour.data.prepare import Data
from onehour.errors import InputError
from onehour.models.lora import merge_lora
from onehour.recipe import Recipe, recipe_from, short_traceback
from onehour.training.checkpoint import load_model, read_facts
from onehour.training.locked import locked
from onehour.training.sums import damage
from onehour.training.trials import find_search


@dataclass(frozen=True)
class Run:
    """A run's folder, by its absolute path."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def metrics_file(self) -> Path:
        """metrics.jsonl."""
        return self.folder / "metrics.jsonl"

    @property
    def audit_file(self) -> Path:
        """audit.jsonl."""
        return self.folder / "audit.jsonl"

    @property
    def warnings_file(self) -> Path:
        """warnings.jsonl."""
        return self.folder / "warnings.jsonl"

    @property
    def stop_file(self) -> Path:
        """Its being there asks the workers to finish the step, save and end."""
        return self.folder / "stop"

    @property
    def stacks(self) -> Path:
        """The folder into which workers that hang write their stacks, a file for each rank."""
        return self.folder / "stacks"

    @property
    def failure_file(self) -> Path:
        """failure.json: the first exception that a worker raised in this attempt; none if workers were killed."""
        return self.folder / "failure.json"

    def recipe(self) -> Recipe:
        """The recipe that the run trains."""
        return recipe_from(self.config()["recipe"])

    def train_config(self) -> TrainConfig:
        """How the run trains."""
        return TrainConfig(**self.config()["train"])

    def resume_command(self, storage: str | None = None, onehour: str = "onehour") -> str:
        """The command that goes on with the run, from any folder, where onehour is called so."""
        copied = f" --storage {storage}" if storage else ""
        return f"{onehour} train --resume {self.name} --runs {self.folder.parent}{copied}"

    def config(self) -> dict[str, Any]:
        """config.json."""
        return json.loads((self.folder / "config.json").read_text())  # type: ignore[no-any-return]

    def index(self) -> dict[str, Any]:
        """data.json: which data the run trains on. Runs of the first onehour lack their name."""
        return json.loads((self.folder / "data" / "data.json").read_text())  # type: ignore[no-any-return]

    def facts(self) -> dict[str, Any]:
        """What the recipe noted about its data when it prepared them."""
        return self.index()["facts"]  # type: ignore[no-any-return]

    def data(self, storage: str | None) -> dict[str, str]:
        """Which data the run trains on, and where all workers find them: in the storage, or else among the runs."""
        index = self.index()
        return {"name": index["name"], "digest": index["digest"], "storage": storage or str(self.folder.parent)}

    def describe(self, recipe: Recipe, config: TrainConfig, scale: ScaleConfig, data: Data) -> None:
        """Write config.json and data/."""
        content = {
            "recipe": recipe.describe(),
            "train": asdict(config),
            "scale": asdict(scale),
            "versions": {"onehour": __version__} | {name: version(name) for name in ("torch", "ray")},
        }
        (self.folder / "config.json").write_text(json.dumps(content, indent=2, default=str))
        samples = shutil.ignore_patterns("*.arrow")
        shutil.copytree(data.folder, self.folder / "data", ignore=samples, copy_function=put, dirs_exist_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """The reports by step, each a dict. Of a step that was done again after a fault, the last report counts."""
        return by_step(self.reports())

    def reports(self) -> list[dict[str, Any]]:
        """Every report, in the order in which they were made."""
        return json_lines(self.metrics_file.read_text()) if self.metrics_file.is_file() else []

    def num_done_again(self) -> int:
        """How many steps that had been reported were done again after a fault."""
        return len(self.reports()) - len(self.rows())

    def note_warning(self, warning: str) -> None:
        """Append to warnings.jsonl, if the disk has room."""
        line = json.dumps({"time": time.time(), "warning": warning})
        with suppress(OSError), self.warnings_file.open("a") as file:
            file.write(line + "\n")

    def warnings(self) -> list[str]:
        """What was told beside the training, oldest first."""
        lines = json_lines(self.warnings_file.read_text()) if self.warnings_file.is_file() else []
        return [line["warning"] for line in lines]

    def checkpoint_at(self, step: int) -> Path:
        """The folder of the checkpoint after `step` steps."""
        return self.folder / "checkpoints" / f"step_{step:07d}"

    def newest_checkpoint(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint whose sums are right, or None; and a sentence about each damaged one that is newer."""
        warnings: list[str] = []
        for folder in reversed(self.checkpoints()):
            reason = damage(folder)
            if reason is None:
                return folder, warnings
            warnings.append(f"The checkpoint {folder} is damaged: {reason}; the newest good one before it is used.")
        return None, warnings

    def checkpoints(self) -> list[Path]:
        """The folders of the checkpoints, oldest first."""
        return sorted((self.folder / "checkpoints").glob("step_*"))

    def best_checkpoint(self) -> Path | None:
        """The checkpoint of the lowest held-out loss, or None if none was evaluated."""
        losses: dict[Path, float | None] = {}
        for folder in self.checkpoints():
            with suppress(OSError, ValueError):  # a damaged checkpoint.json
                losses[folder] = read_facts(folder).get("held_out_loss")
        return lowest_loss(losses)

    def lock(self) -> AbstractContextManager[None]:
        """For the time of a training, the right to write here; raises InputError where another process is training this run."""
        return locked(
            self.folder,
            f"The run {self.name} is being trained by another process; end that first, or start a new run.",
        )

    def is_locked(self) -> bool:
        """Whether another process is training this run; whoever may not write in its folder is told that none is."""
        try:
            with self.lock():
                return False
        except PermissionError:
            return False
        except InputError:
            return True

    def note_failure(self, failure: dict[str, str]) -> None:
        """Write failure.json, unless another worker was first (what follows is mostly its consequence) or the disk is full."""
        with suppress(OSError), self.failure_file.open("x") as file:
            json.dump(failure, file)


def put(file: str, new: str) -> None:
    """Put a file there: weights, which are large, by a second name that takes no room, if the disk has such; else a copy."""
    Path(new).unlink(missing_ok=True)
    if file.endswith(".safetensors"):
        with suppress(OSError):
            os.link(file, new)
            return
    shutil.copy(file, new)


def json_lines(text: str) -> list[dict[str, Any]]:
    """The lines of a file that is appended to, but for a last one that is half written."""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def by_step(reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reports by step; of a step that was done again, the last one."""
    return sorted({report["step"]: report for report in reports}.values(), key=lambda report: report["step"])


def metrics_of(report: dict[str, Any]) -> dict[str, float]:
    """The metrics of a report: its numbers, but for those that say where it stands."""
    where = ("step", "num_steps", "samples")
    numbers = {name: value for name, value in report.items() if type(value) in (int, float)}  # True is none
    return {name: value for name, value in numbers.items() if name not in where}


def failure_of(error: Exception) -> dict[str, str]:
    """What failure.json tells of an exception."""
    told = short_traceback(error) or "".join(traceback.format_exception(error))
    return {"kind": type(error).__name__, "message": str(error), "traceback": told}


Checkpoint = TypeVar("Checkpoint")


def lowest_loss(losses: dict[Checkpoint, float | None]) -> Checkpoint | None:
    """The checkpoint of the lowest held-out loss, the first of equal ones; None if none was evaluated."""
    evaluated = {checkpoint: loss for checkpoint, loss in losses.items() if loss is not None}
    return min(evaluated, key=lambda checkpoint: evaluated[checkpoint], default=None)


def create_run(runs: Path, name: str | None, recipe_name: str) -> Run:
    """A new, empty run: called `name`, or else by the recipe's name and the next free number.

    Raises:
        InputError: the name is in use or is no name, or the folder cannot be written.
    """
    runs = runs.absolute()
    if name is not None and not re.fullmatch(r"[\w-][\w.-]*", name):
        raise InputError(f"The run name {name!r} cannot be used; choose one of letters, digits, '-', '_' and '.'.")
    names = [name] if name else (f"{recipe_name}-{number}" for number in range(1, 1_000_000))
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for candidate in names:
            with suppress(FileExistsError):
                (runs / candidate).mkdir()
                return Run(runs / candidate)
    except OSError as error:
        raise InputError(
            f"Runs cannot be kept in {runs} ({error.strerror}); choose another folder by --runs."
        ) from error
    raise InputError(
        f"There is a run {name} in {runs} already; go on with it by --resume {name}, or choose another --name."
    )


def open_run(runs: Path, name: str) -> Run:
    """The run called `name` in the folder `runs`; `name` may also be the path of a run. Of a search, its best trial.

    Raises:
        InputError: there is none; names those that are called nearly so, or else those there are.
    """
    for folder in (runs.absolute() / name, Path(name).absolute()):
        if (folder / "config.json").is_file():
            return Run(folder)
    if search := find_search(runs, name):
        return Run(search.folder / search.best().name)
    there = sorted(path.parent.name for pattern in ("config.json", "search.json") for path in runs.glob(f"*/{pattern}"))
    raise no_run(name, str(runs.absolute()), there)


def no_run(name: str, place: str, there: Sequence[str]) -> InputError:
    """The mistake of asking for a run that is not among those that are `there`."""
    near = difflib.get_close_matches(name, there, n=2)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"there {'are ' + ', '.join(there) if there else 'is none'}."
    )
    return InputError(f"There is no run {name} in {place}; {hint}")


def load_trained(run: Run, checkpoint: Path | None = None) -> tuple[Recipe, nn.Module]:
    """The recipe of a run, and its model from a checkpoint or else the newest good one, on the CPU, in evaluation mode.

    Raises:
        InputError: the run has no good checkpoint.
    """
    checkpoint = checkpoint or good_checkpoint(run)
    recipe = run.recipe()
    model = recipe.begin(run.folder / "data")
    load_model(model, checkpoint)
    merge_lora(model)
    return recipe, model.eval()


def good_checkpoint(run: Run) -> Path:
    """The newest good checkpoint of a run; InputError if there is none."""
    checkpoint, _ = run.newest_checkpoint()
    if checkpoint is None:
        raise InputError(f"The run {run.name} has no good checkpoint yet; go on with: {run.resume_command()}")
    return checkpoint
