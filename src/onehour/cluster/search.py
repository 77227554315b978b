"""Search: Ray Tune tries hyperparameters, and each trial is the same `train`. What chapter 10 shows."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # without it, Tune prints a frame even when it is asked to be silent

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from onehour.cluster.connect import ray_cluster
from onehour.cluster.preflight import nodes, room_on
from onehour.config import TrainConfig
from onehour.errors import InputError
from onehour.recipe import Recipe, recipe_from
from onehour.space import names_of, with_choice
from onehour.training.loop import Report, train

METRIC = "held_out_loss"  # what a search makes small


def search(
    recipe: Recipe, config: TrainConfig, space: Mapping[str, Any], folder: Path, *, num_trials: int = 1,
    scheduler: TrialScheduler | None = None, searcher: Searcher | None = None, trials_at_once: int | None = None,
    cpus_per_trial: float = 1.0,
) -> tune.ResultGrid:  # fmt: skip
    """Train `recipe` once for each choice from `space`; the results, with every evaluation, are kept in `folder`.

    `space` maps fields of the recipe or of `config` to ray.tune's domains; the other fields stay as they are. Without a
    searcher, grid_search domains are tried in full, `num_trials` times, and the others are drawn at random. Each trial
    is one worker. None for `trials_at_once`: as many as there is room for. A trial that fails is one result with its
    error.

    Raises:
        InputError: the space names something that cannot be set, the folder is there already, or no node has room.
    """
    check_space(recipe, config, space)
    folder = folder.absolute()
    if folder.exists():
        raise InputError(f"There is something in {folder} already; choose another folder for this search.")
    function = partial(trial, recipe=recipe.describe(), config=dataclasses.asdict(config))
    with ray_cluster(None):
        if not any(room_on(node.total, cpus_per_trial, gpu=False) for node in nodes()):
            raise InputError(f"No node has {cpus_per_trial:g} CPU cores for a trial; ask for less.")
        return tune.Tuner(
            tune.with_resources(function, {"CPU": cpus_per_trial}),
            param_space=dict(space),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="min",
                num_samples=num_trials,
                scheduler=scheduler,
                search_alg=searcher,
                max_concurrent_trials=trials_at_once,
                reuse_actors=True,  # a new one imports torch, which takes longer than a small trial
            ),
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                verbose=0,
                progress_reporter=tune.CLIReporter(),  # the one for notebooks shows a table even if it should not
            ),
        ).fit()


def trial(chosen: dict[str, Any], recipe: dict[str, Any], config: dict[str, Any]) -> None:
    """One trial, in an actor of Tune: `train` with what was chosen, from the checkpoint that Tune gives, if any.

    Tune hears of each evaluation. When it wants no more of this trial, tune.report does not return.
    """
    start = tune.get_checkpoint()
    with start.as_directory() if start else nullcontext() as folder:
        for report in train(*with_choice(recipe_from(recipe), TrainConfig(**config), chosen), folder and Path(folder)):
            if METRIC in report.metrics:
                tell(report)


def tell(report: Report) -> None:
    """Hand an evaluation to Tune, and the checkpoint, if one is due at the same step."""
    metrics = {"step": report.step} | report.metrics
    with tempfile.TemporaryDirectory() as folder:
        saved = report.checkpoint and report.checkpoint.save(Path(folder) / "checkpoint")
        tune.report(metrics, checkpoint=tune.Checkpoint(str(saved)) if saved else None)


def check_space(recipe: Recipe, config: TrainConfig, space: Mapping[str, Any]) -> None:
    """Raise InputError unless every name in the space is a field of the recipe or of the configuration."""
    names = names_of(recipe) | names_of(config)
    if unknown := sorted(set(space) - names):
        raise InputError(f"The space names {', '.join(unknown)}; what can be set is {', '.join(sorted(names))}.")
