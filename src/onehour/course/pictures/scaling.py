"""How much faster many workers are than one, as a picture of `speedup`."""

from collections.abc import Mapping, Sequence

from IPython.display import SVG

from onehour.course.pictures.style import GREY, as_svg, new_figure
from onehour.course.words import say
from onehour.training.scaling import speedup, step_seconds

__all__ = ["draw", "speedup", "step_seconds"]  # chapter 12 asks for the three of them here


def draw(cases: Mapping[str, Mapping[str, float]], workers: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> SVG:
    """Speed-up over the number of workers; a line for each case, from its name to the times of `step_seconds`."""
    figure = new_figure(8, 4.2)
    axes = figure.add_subplot()
    axes.plot(workers, workers, color=GREY, linestyle="--", label=say("ideal", "理想"))
    for name, times in cases.items():
        axes.plot(workers, [speedup(n, **times) for n in workers], marker="o", markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(say("workers", "工作进程数"))
    axes.set_ylabel(say("times as fast as one", "相对一个工作进程的加速比"))
    axes.set_title(say("Scaling at a fixed global batch", "全局批量固定时的扩展"))
    axes.grid(alpha=0.3)
    axes.legend()
    return as_svg(figure)
