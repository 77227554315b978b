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
    from onehour.cluster.scaling import Measured, Start
    from onehour.training.scaling import Model

SCALE_HELP = f"""usage: onehour scale RECIPE --workers 1 2 4 [options]

RECIPE is {", ".join(RECIPES)}, or the path of a Python file of your own.

  onehour scale RECIPE --help    the options: of the recipe, of the training, of the scaling"""

TOLERANCE = 1e-5  # of losses at different numbers of workers, in float32


def scale(arguments: Sequence[str]) -> None:
    """onehour scale RECIPE --workers 1 2 4: train by each number of workers, and show how the training scales."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(SCALE_HELP)
        return
    recipe, config, asked = scale_options(arguments)
    from onehour.cluster.scaling import Measured, Start, at_size, run_sizes
    from onehour.data.prepare import prepare
    from onehour.show.scaling import start_text
    from onehour.show.terminal import Progress, count
    from onehour.training.plan import make_plan

    if config.strategy not in ("auto", "ddp"):
        raise InputError(f"--strategy {config.strategy} is not taken apart by onehour scale; use ddp.")
    data = prepare(recipe)
    plans = [make_plan(recipe, at_size(config, n, asked.weak), data, n, None) for n in asked.workers]
    place = ScaleConfig(
        gpu=asked.gpu, cpus_per_worker=asked.cpus_per_worker, address=asked.address, name=asked.name, runs=asked.runs
    )
    sizes, progress = list[Measured](), Progress(recipe, config)
    for told in run_sizes(recipe, config, place, data, asked.workers, asked.weak):
        if isinstance(told, Start):
            start = told
            save(start.folder, recipe, asked, sizes)
            print(start_text(plans[0], asked, start), flush=True)
        elif isinstance(told, int):
            print(count(told, "worker"), flush=True)
        elif isinstance(told, Measured):
            sizes.append(told)
            save(start.folder, recipe, asked, sizes)
        elif told.get("interrupted"):
            fail(f"Stopped; what was measured so far is in {start.folder / 'scaling.json'}.", 130)
        else:
            progress.show(told)
    finish(recipe, config, asked, plans[0].memory.gradients, sizes, start)


def scale_options(arguments: Sequence[str]) -> tuple[Recipe, TrainConfig, ScalingConfig]:
    """The options of onehour scale: those of the recipe, of the training and of the scaling."""
    recipe, command, kind = find_recipe(arguments[0])(), f"scale {arguments[0]}", (ScalingConfig, ScalingConfig())
    options = recipe_options(recipe, short, arguments[1:], command, scaling=kind)
    return options.recipe, options.train, options.scaling


def short(recipe: Recipe) -> TrainConfig:
    """As the recipe is trained, but for 100 steps, and evaluated at the end."""
    return replace(recipe.defaults(), num_steps=100, evaluate_every=None, checkpoint_every=None, patience=None)


def finish(
    recipe: Recipe, config: TrainConfig, asked: ScalingConfig, gradient_bytes: float, sizes: "list[Measured]",
    start: "Start",
) -> None:  # fmt: skip
    """Show how the training scales, and keep it.

    Raises:
        TrainingError: the losses do not agree.
    """
    from onehour.show.scaling import assumption, explanation, parts_text, results_text, save_picture, simulation_text
    from onehour.show.table import labelled
    from onehour.training.scaling import fit, largest_difference

    model = fit({one.workers: one.parts for one in sizes}, gradient_bytes, asked.weak, sizes[0].rest)
    save(start.folder, recipe, asked, sizes, model)
    print(f"\n{results_text(sizes, model, recipe.unit())}\n\n{parts_text(sizes)}\n")
    for sentence in explanation(sizes, model, start):
        print(labelled("", sentence, indent=0))
    if simulated := asked.simulated():
        print(f"\n{simulation_text(model, simulated, config.global_batch_size)}\n")
        print(labelled("", assumption(model, simulated[-1]), indent=0))
    batch = f"{config.global_batch_size:,} samples" + (" for each worker" if asked.weak else "")
    picture = save_picture(
        sizes, model, simulated, f"{recipe.name()}, a batch of {batch}", start.folder / "scaling.png"
    )
    print(f"\nresults    {start.folder / 'scaling.json'}\npicture    {picture}")
    if not asked.weak and len(sizes) > 1:
        check_losses(largest_difference({one.workers: one.losses for one in sizes}), config)


def save(
    folder: Path, recipe: Recipe, asked: ScalingConfig, sizes: "list[Measured]", model: "Model | None" = None
) -> None:
    """Write scaling.json: what is measured, what was so far, and in the end the model that fits it."""
    content = {
        "recipe": recipe.describe(),
        "workers": asked.workers,
        "sizes": [asdict(one) for one in sizes],
        "model": asdict(model) if model else None,
    }
    (folder / "scaling.json").write_text(json.dumps(content, indent=2))


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
