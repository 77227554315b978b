"""A run's losses as a picture, in a file and in the terminal."""

from pathlib import Path
from typing import Any


def save_curve(rows: list[dict[str, Any]], title: str, path: Path) -> Path:
    """Draw training and held-out loss over the steps into the PNG `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="step", ylabel="loss")
    axes.plot(*points(rows, "loss"), color="#7aa6c2", linewidth=1, label="training")
    axes.plot(*points(rows, "held_out_loss"), color="#c2410c", marker="o", label="held out")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return path


def draw_curve(rows: list[dict[str, Any]]) -> str:
    """The same as text, as wide as the terminal."""
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(plotext.terminal_width(), 16)
    plotext.plot(*points(rows, "loss"), label="training", marker="braille")
    plotext.scatter(*points(rows, "held_out_loss"), label="held out", marker="o")
    return str(plotext.build())


def points(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric, from the rows that have it."""
    having = [row for row in rows if name in row]
    return [row["step"] for row in having], [row[name] for row in having]
