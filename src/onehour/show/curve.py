"""A run's losses as a picture: in a file, and in the terminal."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAINING, HELD_OUT = "#4c8cb5", "#d9480f"  # blue and orange: told apart by colour-blind readers, too


def save_curve(rows: list[dict[str, Any]], title: str, path: Path) -> Path:
    """Draw training and held-out loss over the steps into the PNG `path`; the lowest held-out loss is named."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.3)
    for name, color, label in (("loss", TRAINING, "training"), ("held_out_loss", HELD_OUT, "held out")):
        steps, losses = points(rows, name)
        marker = "o" if name == "held_out_loss" or len(steps) == 1 else None
        axes.plot(steps, losses, color=color, marker=marker, markersize=5, label=label)
        if name == "held_out_loss" and losses:
            best = min(zip(losses, steps, strict=True))
            axes.annotate(
                f"{best[0]:.3g}", (best[1], best[0]), (0, 7), textcoords="offset points", ha="center", color=color
            )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path


def draw_curve(rows: list[dict[str, Any]], width: int, height: int = 16, colorless: bool = False) -> str:
    """The same as text of `width` columns and `height` lines."""
    import plotext

    training, held_out = points(rows, "loss"), points(rows, "held_out_loss")
    plotext.terminal.limit(False, False)  # the width is given: what this output goes to may be no terminal
    figure = plotext.figure.clear().theme("simple").plot_size(width, height)
    figure.title("loss   ⠒⠒ training   ● held out")
    figure.draw(figure.signal(*training, marker="braille").lines())
    if held_out[0]:
        figure.draw(figure.signal(*held_out, marker="●"))
    for axis, values in (("x", [0, *training[0], *held_out[0]]), ("y", training[1] + held_out[1])):
        ticks = round_ticks(values)
        figure.ruler(axis).lim(ticks[0], ticks[-1])
        figure.ruler(axis).ticks(ticks, [f"{tick:,.6g}" for tick in ticks])
    return str(figure.build().string(colorless)).rstrip("\n")


def points(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric, from the rows that have it as a finite number."""
    having = [row for row in rows if math.isfinite(row.get(name, math.nan))]
    return [row["step"] for row in having], [row[name] for row in having]


def round_ticks(values: Sequence[float]) -> list[float]:
    """About five round numbers from below the lowest value to above the highest."""
    from matplotlib.ticker import MaxNLocator

    return [round(float(tick), 12) for tick in MaxNLocator(5).tick_values(min(values), max(values))]
