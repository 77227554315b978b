"""onehour search: many trainings on Ray Tune, and what came out."""

import dataclasses
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from onehour.cli import fail, parse, this_command
from onehour.commands.options import recipe_options
from onehour.commands.train import elsewhere
from onehour.config import SearchConfig, TrainConfig
from onehour.errors import InputError
from onehour.recipe import RECIPES, Recipe, find_recipe
from onehour.space import from_file, from_options, read_space, with_choice

if TYPE_CHECKING:
    from onehour.data.prepare import Data
    from onehour.training.trials import Asked, Search

SEARCH_HELP = f"""usage: onehour search RECIPE [options]

RECIPE is {", ".join(RECIPES)}, or the path of a Python file of your own.

  onehour search RECIPE --help     the options: of the recipe, of the training, of the search
  onehour search --resume SEARCH   go on with a search that was ended

What is chosen from is the recipe's space; --space NAME=TEXT replaces a part of it or adds to it."""

OF_PBT = ("learning_rate", "weight_decay", "momentum", "beta1", "beta2", "clip")  # what may change on the way


@dataclasses.dataclass(frozen=True)
class Resume:
    """What can be said of a search that goes on: where it is, and on which Ray."""

    resume: str
    """Name of the search."""
    runs: Path = Path("runs")
    """Folder in which it is kept."""
    address: str | None = None
    """Ray cluster to join. None: the one it was asked for."""


def search(arguments: Sequence[str]) -> None:
    """onehour search RECIPE [options]: try hyperparameters, show which were best."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(SEARCH_HELP)
        return
    if arguments[0].startswith("-"):
        go_on(arguments)
        return
    asked = read_asked(arguments)
    check_extra()
    from onehour.training.run import create_run
    from onehour.training.trials import Search, new_name

    asked, num_steps = check(asked)
    name = new_name(asked.options.runs, asked)
    drive(lambda: Search(create_run(asked.options.runs, name, name).folder), asked, num_steps, resume=False)


def go_on(arguments: Sequence[str]) -> None:
    """Go on with a search."""
    options = parse(Resume, arguments, "search --resume SEARCH")
    check_extra()
    from onehour.training.trials import find_search

    found = find_search(options.runs, options.resume)
    if found is None:
        there = sorted(path.parent.name for path in options.runs.glob("*/search.json"))
        known = f"there {'are ' + ', '.join(there) if there else 'is none'}"
        raise InputError(f"There is no search {options.resume} in {options.runs.absolute()}; {known}.")
    asked = found.asked()
    if options.address:
        asked = dataclasses.replace(asked, options=dataclasses.replace(asked.options, address=options.address))
    asked, num_steps = check(asked)
    drive(lambda: found, asked, num_steps, resume=True)


def read_asked(arguments: Sequence[str]) -> "Asked":
    """What the command line asks for."""
    kind = Annotated[SearchConfig, tyro.conf.UseAppendAction]
    options = recipe_options(
        find_recipe(arguments[0])(), lambda recipe: recipe.defaults(), arguments[1:], f"search {arguments[0]}",
        search=(kind, SearchConfig()),
    )  # fmt: skip
    texts = options.recipe.space() | (from_file(options.search.space_file) if options.search.space_file else {})
    recipe, config, space = read_space(options.recipe, options.train, texts | from_options(options.search.space))
    from onehour.training.trials import Asked

    return Asked(arguments[0], recipe, config, space, options.search)


def check_extra() -> None:
    """Refuse where something is missing that a search takes beside Ray."""
    missing = [name for name in ("optuna", "pandas", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"A search takes {', '.join(missing)}, not installed here: pip install 'onehour[search]'.")


def check(asked: "Asked") -> tuple["Asked", int]:
    """Find before any work what could not be; returns what was asked for, with evaluations, and a trial's steps.

    Raises:
        InputError: it cannot be.
    """
    from onehour.data.prepare import prepare
    from onehour.training.keep import check_room
    from onehour.training.loop import count_steps
    from onehour.training.plan import make_plan

    check_searcher(asked)
    largest = 0
    data = prepare(asked.recipe)
    num_steps = count_steps(asked.config, len(data.train))
    for name, domain in asked.space.items():
        for value in domain.samples():
            recipe, config = with_choice(asked.recipe, asked.config, {name: value})
            plan = make_plan(recipe, config, prepare(recipe), asked.options.workers, None)
            largest = max(largest, plan.checkpoint_bytes)
    check_metric(asked, data)
    check_room(asked.options.runs, largest, asked.num_trials(), "ask for fewer --trials")
    every = asked.config.evaluate_every or max(1, num_steps // 9)  # so that asha decides after a ninth and a third
    config = dataclasses.replace(asked.config, evaluate_every=every)
    return dataclasses.replace(asked, config=config), num_steps


def check_searcher(asked: "Asked") -> None:
    """Whether searcher and scheduler fit the space."""
    options = asked.options
    defaults = asked.recipe.defaults()
    for name in ("checkpoint_every", "keep"):
        if getattr(asked.config, name) != getattr(defaults, name):
            raise InputError(
                f"A trial keeps its last evaluation's checkpoint, so --{name.replace('_', '-')} has no meaning; leave it away."
            )
    for name, domain in asked.space.items():
        if options.searcher == "grid" and domain.kind != "choice":
            raise InputError(f"{name}={domain} has no end of values; for --searcher grid write choice(A, B, ...).")
    if options.searcher == "grid" and options.trials:
        raise InputError("--searcher grid tries every combination, so --trials has no meaning; leave one of them away.")
    if options.scheduler == "pbt":
        if unfit := [name for name in asked.space if name not in OF_PBT]:
            raise InputError(
                f"--scheduler pbt changes a training on its way, which {', '.join(unfit)} cannot be; fix it by --space "
                f"NAME=VALUE (what can be: {', '.join(OF_PBT)}), or use another scheduler."
            )
        if options.workers > 1 or options.searcher != "random":
            raise InputError("--scheduler pbt is for trials of one worker that are drawn at random; use another one.")


def check_metric(asked: "Asked", data: "Data") -> None:
    """Whether the recipe reports the metric that is to decide."""
    from onehour.training.evaluate import metric_names

    names = metric_names(asked.recipe, data)
    if asked.options.metric not in names:
        raise InputError(
            f"The recipe {asked.recipe.name()} does not report {asked.options.metric}; it reports {', '.join(names)}."
        )


def drive(open_search: Any, asked: "Asked", num_steps: int, resume: bool) -> None:
    """Run the search on Ray and show it."""
    from onehour.cluster.address import cluster_address
    from onehour.cluster.connect import ray_cluster
    from onehour.show.searches import Live, plan_text

    with ray_cluster(cluster_address(asked.options.address), "onehour.cluster.tuning"):
        from onehour.cluster.tuning import run_trials, trials_at_once

        at_once = trials_at_once(asked.options)
        found = open_search()
        with found.lock():
            found.describe(asked)
            print(plan_text(asked, found.folder, at_once, num_steps), flush=True)
            live = Live(found, asked)
            interrupted = run_trials(found, num_steps, live.show, resume)
            live.end()
    if interrupted:
        where = "" if found.folder.parent == Path("runs").absolute() else f" --runs {found.folder.parent}"
        fail(f"Stopped; go on with: {this_command()} search --resume {found.name}{where}", 130)
    finish(found, asked)


def finish(found: "Search", asked: "Asked") -> None:
    """Show what a search has brought, and where it is."""
    from onehour.errors import TrainingError
    from onehour.show.searches import importance, importance_text, results_text, save_best_so_far, save_parallel
    from onehour.training.run import Run

    trials = found.results()
    ranked = asked.ranked(trials)
    print(f"\n{results_text(trials, asked)}\n", flush=True)
    if not ranked:
        raise TrainingError(f"No trial of the search {found.name} came to an evaluation; see the errors above.")
    recipe, config = with_choice(asked.recipe, asked.config, ranked[0].chosen)
    print(importance_text(importance(ranked, asked)))
    print(f"search     {found.folder}")
    print(f"results    {found.results_file}")
    print(f"pictures   {save_parallel(ranked, asked, found.folder / 'parallel.png')}")
    print(f"           {save_best_so_far(trials, asked, found.folder / 'best_so_far.png')}")
    print(f"best       {ranked[0].name}: {asked.options.metric} {ranked[0].metrics[asked.options.metric]:.4f}")
    options = shlex.join(options_text(recipe, config))
    print(f"again      {this_command()} train {asked.recipe_argument} {options}")
    where = elsewhere(Run(found.folder))
    print(f"or         {this_command()} train {asked.recipe_argument} --from {found.name}{where}")
    print(f"try next   {this_command()} {recipe.next_command()} {found.name}{where}")


def options_text(recipe: Recipe, config: TrainConfig) -> list[str]:
    """The options of the command line that say this recipe and this configuration."""
    words = []
    for settings, defaults in ((recipe, type(recipe)()), (config, recipe.defaults())):
        for name, value in dataclasses.asdict(settings).items():
            if value != getattr(defaults, name):
                option = name.replace("_", "-")
                words += (
                    [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
                )
    return words
