"""onehour scale: the same training by different numbers of workers, and what that tells."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onehour.cli import fail
from onehour.commands.options import recipe_options
from onehour.config import ScaleConfig, ScalingConfig, TrainConfig
from onehour.errors import InputError, TrainingError
from onehour.recipe import RECIPES, Recipe, find_recipe

if TYPE_CHECKING:
    from onehour.cluster.scaling import Machines, Measured

SCALE_HELP = f"""usage: onehour scale RECIPE --workers 1 2 4 [options]

RECIPE is {", ".join(RECIPES)}, or the path of a Python file of your own.

  onehour scale RECIPE --help    the options: of the recipe, of the training, of the scaling"""

TOLERANCE = 1e-5  # of losses at different numbers of workers, in float32


def scale(arguments: Sequence[str]) -> None:
    """onehour scale RECIPE --workers 1 2 4: train by each number of workers, and show how the training scales."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(SCALE_HELP)
        return
    options = recipe_options(
        find_recipe(arguments[0])(),
        short,
        arguments[1:],
        f"scale {arguments[0]}",
        scaling=(ScalingConfig, ScalingConfig()),
    )
    recipe, config, asked = options.recipe, options.train, options.scaling
    from onehour.cluster.scaling import Machines, Measured, run_sizes
    from onehour.data.prepare import prepare
    from onehour.show.terminal import Progress, count
    from onehour.training.plan import make_plan
    from onehour.training.run import create_run

    if config.strategy not in ("auto", "ddp"):
        raise InputError(f"--strategy {config.strategy} is not taken apart by onehour scale; use ddp.")
    data = prepare(recipe)
    plans = [make_plan(recipe, batch_of(config, asked, workers), data, workers, None) for workers in asked.workers]
    folder = create_run(asked.runs, asked.name, f"scale-{recipe.name()}").folder
    print(
        f"scaling    {' '.join(map(str, asked.workers))} workers, {count(plans[0].num_steps, 'step')} each, in {folder}",
        flush=True,
    )
    scale_config = ScaleConfig(gpu=asked.gpu, cpus_per_worker=asked.cpus_per_worker, address=asked.address, runs=folder)
    sizes, there = list[Measured](), Machines(1, 1)
    progress = Progress(recipe, config)
    for told in run_sizes(recipe, config, scale_config, data, folder, asked.workers, asked.weak):
        if isinstance(told, Machines):
            there = told
        elif isinstance(told, Measured):
            sizes.append(told)
        elif told.get("interrupted"):
            fail("Stopped: a scaling does not go on, begin it again.", 130)
        else:
            progress.show(told)
    finish(recipe, config, asked, plans[0].memory.gradients, sizes, there, folder)


def short(recipe: Recipe) -> TrainConfig:
    """As the recipe is trained, but for 100 steps, and evaluated at the end."""
    return replace(recipe.defaults(), num_steps=100, evaluate_every=None, checkpoint_every=None, patience=None)


def batch_of(config: TrainConfig, asked: ScalingConfig, workers: int) -> TrainConfig:
    """The configuration at a number of workers: with --weak the batch grows with them."""
    return replace(config, global_batch_size=config.global_batch_size * (workers if asked.weak else 1))


def finish(
    recipe: Recipe, config: TrainConfig, asked: ScalingConfig, gradient_bytes: float, sizes: "list[Measured]",
    there: "Machines", folder: Path,
) -> None:  # fmt: skip
    """Show how the training scales, and keep it.

    Raises:
        TrainingError: the losses do not agree.
    """
    from onehour.show.scaling import explanation, results_text, save_picture, simulation_text
    from onehour.show.table import labelled
    from onehour.training.scaling import fit, largest_difference

    model = fit({one.workers: one.parts for one in sizes}, gradient_bytes, asked.weak)
    print(f"\n{results_text(sizes, model, recipe.unit())}\n")
    for sentence in explanation(sizes, model, there, asked.weak):
        print(labelled("", sentence, indent=0))
    if simulated := asked.simulated():
        print(f"\n{simulation_text(model, simulated, config.global_batch_size)}\n")
    content = {"sizes": [asdict(one) for one in sizes], "model": asdict(model), "weak": asked.weak}
    (folder / "scaling.json").write_text(json.dumps(content, indent=2))
    print(f"results    {folder / 'scaling.json'}")
    title = (
        f"{recipe.name()}, {'batch grows with the workers' if asked.weak else f'batch of {config.global_batch_size:,}'}"
    )
    print(f"picture    {save_picture(sizes, model, simulated, title, folder / 'scaling.png')}")
    if not asked.weak and len(sizes) > 1:
        check_losses(largest_difference({one.workers: one.losses for one in sizes}), config)


def check_losses(difference: float, config: TrainConfig) -> None:
    """Tell whether the losses of all sizes agree.

    Raises:
        TrainingError: they do not, and in float32 they should.
    """
    if config.precision == "float32" and difference > TOLERANCE:
        raise TrainingError(
            f"The losses differ by {difference:.1e} between the sizes, relatively, where {TOLERANCE:g} is allowed: a sample's "
            "loss has to depend on that sample alone (no batch norm, no dropout)."
        )
    print(f"losses     the same at all sizes, within {difference:.1e}, relatively")
