"""The loss of models of several sizes against the arithmetic that their training took."""

from collections.abc import Mapping, Sequence

from IPython.display import SVG

from onehour.course.pictures.style import as_svg, new_figure
from onehour.course.words import say


def draw(runs: Mapping[str, Sequence[tuple[float, float]]]) -> SVG:
    """A line for each run, from its name to its points (floating-point operations, loss). The x axis is logarithmic."""
    figure = new_figure(8, 4)
    axes = figure.add_subplot()
    for name, points in runs.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xscale("log")
    axes.set_xlabel(say("floating-point operations", "浮点运算次数"))
    axes.set_ylabel(say("loss, nats per token", "损失（奈特 / 词元）"))
    axes.set_title(say("Loss against compute", "损失与计算量"))
    axes.grid(alpha=0.3)
    axes.legend()
    return as_svg(figure)
