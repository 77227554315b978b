"""Several runs beside each other: what came out, and in what they differ."""

import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onehour.errors import InputError
from onehour.show.curve import points
from onehour.show.table import align, labelled, words
from onehour.show.terminal import in_bytes
from onehour.training.run import Run

COLORS = ("#4c8cb5", "#d9480f", "#2b8a3e", "#9c36b5", "#e8a100", "#0b7285", "#c2255c", "#868e96")  # one for each run


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise InputError if two of the runs train different recipes, whose losses say nothing about each other."""
    recipes = {run.name: run.config()["recipe"]["name"] for run in runs}
    if len(set(recipes.values())) > 1:
        each = ", ".join(f"{name} trains {recipe}" for name, recipe in recipes.items())
        raise InputError(f"Runs of different recipes cannot be compared ({each}); show those of one recipe.")


def results_text(runs: Sequence[Run]) -> str:
    """A line for each run: its last step, its losses, its best held-out metrics, its speed and its faults."""
    columns = [results(run) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = [["", *names]] + [
        [run.name, *(column.get(name, "-") for name in names)] for run, column in zip(runs, columns, strict=True)
    ]
    return align(lines)


def results(run: Run) -> dict[str, str]:
    """What came out of a run, by the name of the column."""
    rows, (unit, speed, memory) = run.rows(), pace(run)
    evaluated = [row for row in rows if "held_out_loss" in row]
    best = min(evaluated, key=lambda row: float(row["held_out_loss"]), default=dict[str, Any]())
    return {
        "step": f"{rows[-1]['step']:,}",
        "training loss": f"{rows[-1]['loss']:.4f}",
        **{f"best {words(name)}": f"{best[name]:.4f}" for name in best if name.startswith("held_out_")},
        f"{unit}/s": speed,
        "memory": memory,
        "warnings": f"{len(run.warnings())}",
        "steps done again": f"{run.num_done_again():,}",
    }


def pace(run: Run) -> tuple[str, str, str]:
    """What a run counts, such as tokens; how many of them a second, in the median report; its peak memory."""
    unit, size = run.recipe().unit()
    speed = statistics.median(row["samples_per_second"] for row in run.rows() if "loss" in row) * size
    memory = max((row["peak_memory"] for row in run.rows() if "peak_memory" in row), default=None)
    return unit, f"{speed:,.0f}", "-" if memory is None else in_bytes(memory)


def pace_text(run: Run) -> str:
    """How fast a run was, and the memory that it took."""
    unit, speed, memory = pace(run)
    return labelled("speed", f"{speed} {unit}/s in the median, {memory} of memory at its peak")


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The options in which the runs differ: the value of each run, by the option's name."""
    options = [options_of(run) for run in runs]
    names = list(dict.fromkeys(name for each in options for name in each))
    values = {name: [str(each.get(name, "-")) for each in options] for name in names}
    return {name: of_each for name, of_each in values.items() if len(set(of_each)) > 1}


def options_of(run: Run) -> dict[str, Any]:
    """All options of a run that can change its result or its speed, by name."""
    config = run.config()
    scale = {name: value for name, value in config["scale"].items() if name in ("workers", "gpu", "cpus_per_worker")}
    return {**config["recipe"]["options"], **config["train"], **scale, **config["versions"]}


def differences_text(runs: Sequence[Run]) -> str:
    """A line for each option in which the runs differ."""
    found = differences(runs)
    if not found:
        return "the options are the same"
    return align([["", *(run.name for run in runs)], *([name, *values] for name, values in found.items())])


def faults_text(run: Run) -> str:
    """What was told beside the training of a run, and what it cost."""
    told = run.warnings()
    if not told:
        return labelled("faults", "none")
    again = f"{run.num_done_again():,} steps that had been reported were done again"
    return "\n".join([labelled("faults", f"{len(told)}; {again}"), *(labelled("", text) for text in told)])


def draw_runs(runs: Sequence[Run], height: int = 18, colorless: bool = False) -> str:
    """The losses of several runs as text: held out where all of them have evaluations, else training."""
    import plotext

    from onehour.show.curve import round_ticks

    name, curves = curves_of(runs)
    plotext.terminal.limit(False, False)
    width = shutil.get_terminal_size().columns
    figure = plotext.figure.clear().theme("simple").plot_size(width, height)
    markers = "●▲■◆○△□◇"
    told = "   ".join(f"{markers[i % len(markers)]} {run.name}" for i, run in enumerate(runs))
    figure.title(f"{name}   {told}")
    for i, (steps, values) in enumerate(curves):
        figure.draw(figure.signal(steps, values, marker=markers[i % len(markers)]))
    all_steps, all_values = [0, *(s for steps, _ in curves for s in steps)], [v for _, values in curves for v in values]
    for axis, numbers in (("x", all_steps), ("y", all_values)):
        ticks = round_ticks(numbers)
        figure.ruler(axis).lim(ticks[0], ticks[-1])
        figure.ruler(axis).ticks(ticks, [f"{tick:,.6g}" for tick in ticks])
    return str(figure.build().string(colorless)).rstrip("\n")


def curves_of(runs: Sequence[Run]) -> tuple[str, list[tuple[list[int], list[float]]]]:
    """The name of the loss that all runs have, and its steps and values in each run."""
    held_out = [points(run.rows(), "held_out_loss") for run in runs]
    if all(len(steps) > 1 for steps, _ in held_out):
        return "held-out loss", held_out
    return "training loss", [points(run.rows(), "loss") for run in runs]


def save_runs(runs: Sequence[Run], path: Path) -> Path:
    """Draw the training losses of several runs, and what was held out as dots, into the PNG `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss")
    axes.set_title("training loss (lines) and held-out loss (dots)", loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    for i, run in enumerate(runs):
        color, rows = COLORS[i % len(COLORS)], run.rows()
        axes.plot(*points(rows, "loss"), color=color, alpha=0.7, linewidth=1.2)
        axes.plot(*points(rows, "held_out_loss"), color=color, marker="o", linestyle="none", markersize=5)
        axes.plot([], [], color=color, marker="o", label=run.name)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path
