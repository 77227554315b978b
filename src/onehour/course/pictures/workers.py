"""Processes that train together: who starts whom, their losses, and a run in which one was killed."""

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from IPython.display import SVG
from matplotlib.axes import Axes

from onehour.course.pictures.style import BLUE, GREEN, GREY, INK, ORANGE, PAPER, PURPLE, as_svg, new_figure
from onehour.course.words import say


def tree(num_workers: int) -> SVG:
    """Who starts whom: the driver asks the controller, which starts the workers; they speak with one another."""
    axes = canvas(8, 3.6)
    xs = [(i + 0.5) * 6 / num_workers + 2 for i in range(num_workers)]
    box(axes, 1, 3.2, say("driver\nthis notebook", "驱动进程\n本 notebook"), BLUE)
    box(axes, 5, 3.2, say("controller\nTorchTrainer", "控制器\nTorchTrainer"), PURPLE)
    arrow(axes, (1.6, 3.2), (4.45, 3.2), INK)
    axes.text(3, 3.28, "fit()", ha="center", fontsize=9)
    axes.text(5, 2.15, say("starts and\nwatches", "启动并看护"), ha="center", va="center", fontsize=9)
    for rank, x in enumerate(xs):
        box(axes, x, 1.3, say(f"worker\nrank {rank}", f"工作进程\nrank {rank}"), ORANGE)
        arrow(axes, (5, 2.88), (x, 1.62), INK)
    for left, right in pairwise(xs):
        arrow(axes, (left + 0.45, 1.3), (right - 0.45, 1.3), GREEN, style="<->")
        axes.text((left + right) / 2, 1.38, "all-reduce", ha="center", color=GREEN, fontsize=9)
    box(axes, xs[0], 0.05, say("run folder", "运行目录") + "\nmetrics.jsonl, checkpoints/", GREY)
    arrow(axes, (xs[0], 0.98), (xs[0], 0.37), INK)
    axes.text(xs[0] + 0.1, 0.62, say("writes", "写入"), fontsize=9)
    arrow(axes, (xs[0] - 1.15, 0.05), (1, 2.88), GREY, bend="angle,angleA=180,angleB=-90")
    axes.text(0.9, 1.2, say("reads", "读取"), ha="right", color=GREY, fontsize=9)
    return as_svg(axes.get_figure())  # type: ignore[arg-type]


def canvas(width: float, height: float) -> Axes:
    """An empty drawing without axes, 8.2 wide and 4.1 high in its own units."""
    axes = new_figure(width, height).add_subplot(xlim=(0, 8.2), ylim=(-0.4, 3.7))
    axes.set_axis_off()
    return axes


def box(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """A box with text, its middle at (x, y)."""
    edges = {"boxstyle": "round,pad=0.4", "facecolor": PAPER, "edgecolor": color, "linewidth": 1.6}
    axes.text(x, y, text, ha="center", va="center", bbox=edges, fontsize=10, linespacing=1.4)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, style: str = "->", bend: str = "arc3"
) -> None:
    """An arrow from one point to another."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": style, "color": color, "connectionstyle": bend})


def losses(curves: Mapping[str, Sequence[float]]) -> SVG:
    """Loss curves by name over one another, and below how far each is from the first, relatively."""
    figure = new_figure(8, 4.6)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    reference = next(iter(curves.values()))
    for width, (name, curve) in zip((7, 4.5, 2.5, 1), curves.items(), strict=False):
        steps = range(1, len(curve) + 1)
        (line,) = top.plot(steps, curve, linewidth=width, label=name)
        differences = [abs(ours / theirs - 1) for ours, theirs in zip(curve, reference, strict=True)]
        if curve is not reference:
            below.plot(steps, [max(d, 1e-9) for d in differences], ".", markersize=2, color=line.get_color())
    below.axhline(1e-5, color=GREY, linestyle="--")
    below.set_yscale("log")
    top.set_ylabel(say("training loss", "训练损失"))
    below.set_ylabel(say("relative difference", "相对差"))
    below.set_xlabel(say("optimizer step", "优化步"))
    top.legend(title=say("workers", "工作进程数"))
    return as_svg(figure)


def timeline(seen: Sequence[tuple[float, Mapping[str, Any]]]) -> SVG:
    """The steps of a run over the seconds at which the driver saw them; a warning ends an attempt.

    `seen` has a pair for each row that the driver saw: seconds, and the row, with "step" or "warning".
    """
    axes = new_figure(8, 4).add_subplot(xlabel=say("seconds", "秒"), ylabel=say("optimizer step", "优化步"))
    attempt, newest = 1, 0
    for fault, group in groupby(seen, key=lambda pair: "warning" in pair[1]):
        rows = list(group)
        if fault:
            attempt += 1
            axes.axvline(rows[0][0], color=GREY, linestyle=":")
            axes.annotate(say("noticed", "发现故障"), (rows[0][0], 0), (4, 4), textcoords="offset points", color=GREY)
            continue
        seconds, steps = [when for when, _ in rows], [row["step"] for _, row in rows]
        axes.plot(seconds, steps, ".-", markersize=3, label=say(f"attempt {attempt}", f"第 {attempt} 次尝试"))
        saved = [(when, row["step"]) for when, row in rows if row.get("checkpoint")]
        axes.plot(*zip(*saved, strict=True), "s", color=GREEN, markersize=6, zorder=3) if saved else None
        if steps[0] <= newest:
            axes.axhspan(steps[0], newest, color=ORANGE, alpha=0.15, label=say("steps done again", "重做的步"))
        newest = max(newest, steps[-1])
    axes.plot([], [], "s", color=GREEN, label=say("checkpoint", "检查点"))
    axes.legend()
    return as_svg(axes.get_figure())  # type: ignore[arg-type]
