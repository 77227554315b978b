"""A search is a folder: what was asked for, what came out, and its trials, each of which is a run.

runs/search-digits-1/
    search.json        recipe, configuration, space, search
    results.parquet    a row for each trial
    parallel.png       each trial a line through what was chosen and what it led to
    best_so_far.png    how the best grew better
    trial-1/ ...       runs, which show, predict, generate and train --resume understand
    tune/              Ray Tune's own notes, for --resume
"""

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onehour import __version__
from onehour.config import SearchConfig, TrainConfig
from onehour.errors import InputError
from onehour.recipe import Recipe, recipe_from
from onehour.space import Space, read_space, with_choice
from onehour.training.locked import locked

ENDED = ("done", "stopped", "failed")  # the states of a trial of which nothing more will come


@dataclass(frozen=True)
class Trial:
    """A trial, as far as it has come."""

    name: str
    state: str
    """waiting, running, done, stopped (before its last step: by scheduler, patience or time) or failed."""
    chosen: dict[str, Any]
    step: int = 0
    num_steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """Its last evaluation."""
    seconds: float = 0.0
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ENDED


@dataclass(frozen=True)
class Asked:
    """What a search was asked for. `recipe_argument` is what the command line calls the recipe."""

    recipe_argument: str
    recipe: Recipe
    config: TrainConfig
    space: Space
    options: SearchConfig

    def trial_config(self) -> TrainConfig:
        """How each trial trains: it saves at each evaluation, so that whichever is stopped can be used and go on."""
        return replace(self.config, checkpoint_every=self.config.evaluate_every, keep=1)

    def num_trials(self) -> int:
        """How many trials there will be."""
        if self.options.searcher == "grid":
            return math.prod(len(domain.values) for domain in self.space.values())
        return self.options.trials or 20

    def better(self, value: float) -> float:
        """The value of the metric as a number that is small where it is good."""
        return -value if self.options.maximize else value

    def ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials that were evaluated, by their last evaluation, the best first."""
        metric = self.options.metric
        evaluated = [trial for trial in trials if math.isfinite(trial.metrics.get(metric, math.nan))]
        return sorted(evaluated, key=lambda trial: self.better(trial.metrics[metric]))


@dataclass(frozen=True)
class Search:
    """A search's folder, by its absolute path."""

    folder: Path

    @property
    def name(self) -> str:
        """The search's name."""
        return self.folder.name

    @property
    def results_file(self) -> Path:
        """results.parquet."""
        return self.folder / "results.parquet"

    def describe(self, asked: Asked) -> None:
        """Write search.json."""
        content = {
            "recipe_argument": asked.recipe_argument,
            "recipe": asked.recipe.describe(),
            "train": asdict(asked.config),
            "space": {name: str(domain) for name, domain in asked.space.items()},
            "search": asdict(asked.options),
            "num_trials": asked.num_trials(),
            "versions": {"onehour": __version__} | {name: version(name) for name in ("torch", "ray")},
        }
        (self.folder / "search.json").write_text(json.dumps(content, indent=2, default=str))

    def asked(self) -> Asked:
        """What search.json says."""
        content = json.loads((self.folder / "search.json").read_text())
        recipe, config, space = read_space(
            recipe_from(content["recipe"]), TrainConfig(**content["train"]), content["space"]
        )
        options = content["search"] | {"runs": self.folder.parent, "space": tuple(content["search"]["space"])}
        return Asked(content["recipe_argument"], recipe, config, space, SearchConfig(**options))

    def write_results(self, trials: Sequence[Trial]) -> None:
        """Write results.parquet: names, choices, last evaluations, states."""
        rows = [
            {"trial": trial.name, "state": trial.state, "step": trial.step, "num_steps": trial.num_steps,
             "seconds": trial.seconds, "error": trial.error, **trial.chosen, **trial.metrics}
            for trial in trials
        ]  # fmt: skip
        names = dict.fromkeys(name for row in rows for name in row)
        unfinished = self.results_file.with_name(".results.parquet")
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), unfinished)
        unfinished.replace(self.results_file)

    def results(self) -> list[Trial]:
        """The trials that results.parquet knows; none before one has ended."""
        if not self.results_file.is_file():
            return []
        chosen = self.asked().space
        return [
            Trial(
                row["trial"], row["state"], {name: row[name] for name in chosen}, row["step"], row["num_steps"],
                {name: row[name] for name in row if name.startswith("held_out_") and row[name] is not None},
                row["seconds"], row["error"],
            )
            for row in pq.read_table(self.results_file).to_pylist()
        ]  # fmt: skip

    def best(self) -> Trial:
        """The best trial.

        Raises:
            InputError: none was evaluated yet.
        """
        ranked = self.asked().ranked(self.results())
        if not ranked:
            raise InputError(
                f"No trial of the search {self.name} has ended with an evaluation yet; go on with: onehour search "
                f"--resume {self.name} --runs {self.folder.parent}"
            )
        return ranked[0]

    def best_settings(self) -> tuple[Recipe, TrainConfig]:
        """The recipe and the configuration of the search, with what the best trial chose."""
        asked = self.asked()
        return with_choice(asked.recipe, asked.config, self.best().chosen)

    def lock(self) -> AbstractContextManager[None]:
        """For the time of a search, the right to write here; raises InputError where another process is at this search."""
        return locked(
            self.folder,
            f"The search {self.name} is being run by another process; end that first, or start a new search.",
        )


def new_name(runs: Path, asked: Asked) -> str:
    """What a new search is called: as asked for, or search-, the recipe's name and the next free number.

    Raises:
        InputError: there is something of that name.
    """
    name = asked.options.name
    if name and (runs / name).exists():
        raise InputError(
            f"There is something called {name} in {runs.absolute()} already; if it is a search, go on with it by: onehour "
            f"search --resume {name}, or choose another --name."
        )
    free = (f"search-{asked.recipe.name()}-{number}" for number in count(1))
    return name or next(candidate for candidate in free if not (runs / candidate).exists())


def find_search(runs: Path, name: str) -> Search | None:
    """The search called `name` in the folder `runs`, or at the path `name`; None if there is none."""
    folders = (runs.absolute() / name, Path(name).absolute())
    return next((Search(folder) for folder in folders if (folder / "search.json").is_file()), None)
