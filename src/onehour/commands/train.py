"""onehour train: plan, train in this process or on Ray, show what came out."""

import dataclasses
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from onehour.cli import fail, this_command
from onehour.commands.options import recipe_options
from onehour.config import ScaleConfig, TrainConfig, profiled_steps
from onehour.errors import InputError
from onehour.recipe import RECIPES, Recipe, find_recipe

if TYPE_CHECKING:
    from onehour.data.prepare import Data
    from onehour.training.run import Run

TRAIN_HELP = f"""usage: onehour train RECIPE [options]

RECIPE is {", ".join(RECIPES)}, or the path of a Python file of your own.

  onehour train RECIPE --help          the options of that recipe
  onehour train RECIPE --from SEARCH   with the settings of the best trial of a search
  onehour train --resume RUN           go on with a run from its newest good checkpoint"""


From = Annotated[str | None, tyro.conf.arg(name="from")]


@dataclasses.dataclass(frozen=True)
class Resume:
    """What has to be known before the other options: whose defaults they have."""

    resume: str | None = None
    runs: Path = Path("runs")
    storage: str | None = None
    from_: From = None


@dataclasses.dataclass(frozen=True)
class Begin:
    """With which settings a run begins."""

    from_: From = None
    """A search, whose best trial's settings are the defaults here; or a run, whose own are."""


def train(arguments: Sequence[str]) -> None:
    """onehour train RECIPE [options]: plan, train, show what came out."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(TRAIN_HELP)
        return
    recipe, config, scale = train_options(arguments)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1 and scale.workers != 0:
        raise InputError(
            "torchrun has started the workers already; add --workers 0, so that Ray does not start others."
        )
    from onehour.show.terminal import plan_text
    from onehour.training.checkpoint import read_facts
    from onehour.training.device import find_device
    from onehour.training.keep import check_room
    from onehour.training.mlflow import find_mlflow, in_mlflow
    from onehour.training.plan import make_plan, usable_sizes
    from onehour.training.run import create_run, open_run

    sizes = usable_sizes(config, scale) if scale.workers != 0 else []
    run = open_run(scale.runs, scale.resume) if scale.resume else None
    start = run.newest_checkpoint()[0] if run else None
    data = data_to_train(recipe, scale, run, quiet=rank > 0)
    plan = make_plan(recipe, config, data, max(sizes, default=world_size), start)
    if scale.workers == 0:
        find_device(config.device)
    check_watching(scale, read_facts(start)["step"] if start else 0, plan.num_steps)
    if rank > 0:
        train_beside_rank_0(recipe, config, scale, start, data)
        return
    where = place(scale, sizes, world_size)
    check_room(scale.runs, plan.checkpoint_bytes, config.keep or 1)
    mlflow = find_mlflow(scale.runs, recipe.name()) if scale.track else None
    run = run or create_run(scale.runs, scale.name, recipe.name())
    try:
        with run.lock():
            run.describe(recipe, config, scale, data)
            if scale.profile:
                shutil.rmtree(run.folder / "profile", ignore_errors=True)
            print(plan_text(plan, recipe, config, where, run.folder), flush=True)
            if scale.resume:
                begun = start.name if start else "at the beginning: there is no checkpoint yet"
                print(f"resumes    {begun}", flush=True)
            with in_mlflow(run, mlflow):
                rows = drive(recipe, config, scale, run, data, plan.checkpoint_bytes)
                last = show_rows(rows, recipe, config, scale, run)
    except KeyboardInterrupt:
        fail(f"Stopped; {go_on(run, scale)}", 130, at_once=True)
    if start and not last:
        print("nothing    is left to train: that was the last step; for more, give --num-steps or --num-epochs")
    finish(run, scale)


def data_to_train(recipe: Recipe, scale: ScaleConfig, run: "Run | None", quiet: bool) -> "Data":
    """The data of a new training, or of the `run` that goes on; unless `quiet`, a live line tells what takes long."""
    from onehour.commands.prepare import show_preparing
    from onehour.show.terminal import draw
    from onehour.training.shared import data_of, shared_data
    from onehour.training.storage import open_storage

    if not quiet and scale.storage and not run:  # with --resume it was opened already
        open_storage(scale.storage)
    if not quiet and not run:
        show_preparing(recipe)
    if not quiet and scale.storage:
        draw(f"copying the data to {scale.storage}, unless they are there")
    data = data_of(run, recipe, scale.storage) if run else shared_data(recipe, scale.storage)
    if not quiet:
        draw("")
    return data


def check_watching(scale: ScaleConfig, done: int, num_steps: int) -> None:
    """Refuse what there would be nothing to see of: a dashboard without Ray, a profile of steps that do not come.

    Of a training of `num_steps`, `done` are done.
    """
    from onehour.cluster.address import cluster_address

    address = cluster_address(scale.address) if scale.workers != 0 else None
    if scale.dashboard and (address or scale.workers == 0):
        there = (
            f"the cluster at {address} has its own, at port 8265 of its head" if address else "--workers 0 has no Ray"
        )
        raise InputError(f"--dashboard is for a Ray that the training starts, and {there}; leave it away.")
    if scale.dashboard and importlib.util.find_spec("aiohttp_cors") is None:
        raise InputError("--dashboard takes ray[default], which is not installed here: pip install 'onehour[cluster]'.")
    first, last = profiled_steps(scale.profile) if scale.profile else (num_steps, num_steps)
    if last > num_steps:
        raise InputError(
            f"--profile {scale.profile} ends at step {last:,}, and the training at step {num_steps:,}; name earlier steps."
        )
    if scale.profile and first <= done:
        raise InputError(
            f"--profile {scale.profile} begins at step {first:,}, and the run has done {done:,} already; name later steps."
        )


def show_rows(
    rows: Iterator[dict[str, Any]], recipe: Recipe, config: TrainConfig, scale: ScaleConfig, run: "Run"
) -> dict[str, Any]:
    """Show the rows of a training as they come; returns the last one. Exits with 130 if the training was stopped."""
    from onehour.show.terminal import Progress, show_copying

    progress, row = Progress(recipe, config), dict[str, Any]()
    with ExitStack() as copying:
        for row in rows:
            progress.show(row)
            if scale.storage and (row.get("step", 0) == row.get("num_steps") or row.get("interrupted")):
                copying.enter_context(show_copying(run, row["step"], scale.storage))
            if "warning" in row:
                run.note_warning(row["warning"])
    if row.get("interrupted"):
        fail(f"Stopped after step {row['step']:,}, which is saved; {go_on(run, scale)}", 130)
    return row


def go_on(run: "Run", scale: ScaleConfig) -> str:
    """How a training that was stopped goes on."""
    return f"go on with: {run.resume_command(scale.storage, this_command())}"


def train_options(arguments: Sequence[str]) -> tuple[Recipe, TrainConfig, ScaleConfig]:
    """The options of onehour train. Their defaults are the recipe's, or with --resume those of the run."""
    named = bool(arguments) and not arguments[0].startswith("-")
    rest = arguments[1:] if named else arguments
    resume = tyro.cli(Resume, args=[a for a in rest if a not in ("-h", "--help")], return_unknown_args=True)[0]
    if resume.resume:
        from onehour.show.terminal import draw
        from onehour.training.run import open_run
        from onehour.training.storage import fetch

        if resume.storage:
            draw(f"bringing what is newer of {resume.resume} from {resume.storage}")
        for warning in fetch(resume.storage, resume.resume, resume.runs) if resume.storage else []:
            print(f"onehour: {warning}", file=sys.stderr)
        draw("")
        run = open_run(resume.runs, resume.resume)
        recipe, config = run.recipe(), run.train_config()
        if named and find_recipe(arguments[0]).name() != recipe.name():
            raise InputError(f"The run {run.name} trains the recipe {recipe.name()}, not {arguments[0]}.")
    elif named:
        if arguments[0] not in RECIPES and (resume.runs / arguments[0] / "config.json").is_file():
            raise InputError(f"{arguments[0]} is a run; go on with it by: onehour train --resume {arguments[0]}")
        recipe = find_recipe(arguments[0])()
        config = recipe.defaults()
        if resume.from_:
            recipe, config = settings_of(resume.from_, resume.runs, recipe)
    else:
        raise InputError(
            f"There is no recipe to train; name one first ({', '.join(RECIPES)}, or a .py file), or --resume RUN."
        )
    command = f"train {arguments[0]}" if named else "train"
    defaults = (lambda _: config) if resume.resume or resume.from_ else (lambda recipe: recipe.defaults())
    others = {"scale": (ScaleConfig, ScaleConfig()), "begin": (Begin, Begin())}
    options = recipe_options(recipe, defaults, rest, command, **others)
    return options.recipe, options.train, options.scale


def settings_of(name: str, runs: Path, recipe: Recipe) -> tuple[Recipe, TrainConfig]:
    """The settings of the best trial of a search, or those of a run, which have to be of this recipe."""
    from onehour.training.run import open_run
    from onehour.training.trials import find_search

    if search := find_search(runs, name):
        found, config = search.best_settings()
    else:
        run = open_run(runs, name)
        found, config = run.recipe(), run.train_config()
    if found.name() != recipe.name():
        raise InputError(f"{name} trains the recipe {found.name()}, not {recipe.name()}.")
    return found, config


def place(scale: ScaleConfig, sizes: Sequence[int], world_size: int) -> str:
    """Where the workers run, in words; `sizes` are the numbers of workers on Ray that can be used."""
    if world_size > 1:
        return f"{world_size} processes of torchrun"
    if scale.workers == 0:
        return "this process, without Ray"
    from onehour.cluster.address import cluster_address

    address = cluster_address(scale.address)
    each = f"{' or '.join(map(str, sizes))} on Ray" + (", a GPU each" if scale.gpu else "")
    return f"{each}, on the cluster at {address}" if address else f"{each}, on this machine"


def drive(
    recipe: Recipe, config: TrainConfig, scale: ScaleConfig, run: "Run", data: "Data", checkpoint_bytes: float
) -> Iterator[dict[str, Any]]:
    """Train in this process or on Ray; yields the rows of metrics.jsonl."""
    if scale.workers != 0:
        from onehour.cluster.launch import train_on_ray

        yield from train_on_ray(recipe, config, scale, run, checkpoint_bytes)
        return
    from onehour.training.interrupt import stop_requests
    from onehour.training.keep import keep, to_row
    from onehour.training.loop import train
    from onehour.training.profile import profiled

    start, warnings = run.newest_checkpoint()
    yield from ({"warning": warning} for warning in warnings)
    with stop_requests() as wish, profiled(scale.profile, start, run.folder / "profile", rank=0):
        for report in keep(train(recipe, config, start, wish.is_set, data), run, config.keep, scale.storage):
            yield to_row(report)


def train_beside_rank_0(
    recipe: Recipe, config: TrainConfig, scale: ScaleConfig, start: Path | None, data: "Data"
) -> None:
    """Take part in the training of rank 0, which says and keeps everything."""
    from onehour.training import loop
    from onehour.training.interrupt import stop_requests
    from onehour.training.keep import keep_part
    from onehour.training.profile import profiled

    with stop_requests() as wish, profiled(scale.profile, start, None, int(os.environ["RANK"])):
        for _ in keep_part(loop.train(recipe, config, start, wish.is_set, data)):
            pass


def finish(run: "Run", scale: ScaleConfig) -> None:
    """Show what a finished run has brought, and where it is."""
    from onehour.show.curve import save_curve
    from onehour.show.table import profile_text, tables_text
    from onehour.show.terminal import in_bytes
    from onehour.training.device import give_back
    from onehour.training.run import load_trained

    give_back()  # what the training took: there are models to open yet
    rows = run.rows()
    recipe, model = load_trained(run)
    curve = save_curve(rows, run.name, run.folder / "curve.png")
    peak = max(row.get("peak_memory", 0) for row in rows)
    print(f"\n{recipe.closing_words(model, run.folder / 'data', rows[-1], run.facts())}\n")
    print(tables_text(rows[-1], run.facts()), end="")
    print(f"memory     {in_bytes(peak)} at its peak in the worker of rank 0")
    if scale.profile:
        print(profile_text(run.folder / "profile", scale.profile, rows[-1]["step"]))
    print(f"run        {run.folder}")
    print(f"curve      {curve}")
    print(f"try next   {this_command()} {recipe.next_command()} {run.name}{elsewhere(run)}")


def elsewhere(run: "Run") -> str:
    """The option that finds the run, where it is not in the folder runs."""
    return "" if run.folder.parent == Path("runs").absolute() else f" --runs {run.folder.parent}"
