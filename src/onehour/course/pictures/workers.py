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
    box(axes, 1, 3.2, say("driver", "驱动进程") + "\n" + say("this notebook", "本 notebook"), BLUE)
    box(axes, 5, 3.2, say("controller", "控制器") + "\nTorchTrainer", PURPLE)
    arrow(axes, (1.85, 3.2), (4.15, 3.2), say("fit()", "fit()"))
    for rank, x in enumerate(xs):
        box(axes, x, 1.3, say("worker", "工作进程") + f"\nrank {rank}", ORANGE)
        arrow(axes, (5, 2.8), (x, 1.7), say("starts, watches", "启动并看护") if rank == 0 else "")
    for left, right in pairwise(xs):
        axes.annotate("", (right - 0.85, 1.3), (left + 0.85, 1.3), arrowprops={"arrowstyle": "<->", "color": GREEN})
        axes.text((left + right) / 2, 1.42, "all-reduce", ha="center", color=GREEN, fontsize=9)
    box(axes, xs[0], 0.1, say("run folder", "运行目录") + "\nmetrics.jsonl, checkpoints/", GREY, width=2.2)
    arrow(axes, (xs[0], 0.9), (xs[0], 0.5), say("rank 0 writes", "rank 0 写入"))
    axes.annotate("", (1, 2.8), (xs[0] - 1.15, 0.1), arrowprops={"arrowstyle": "->", "color": GREY,
                  "connectionstyle": "angle,angleA=180,angleB=-90"})  # fmt: skip
    axes.text(0.9, 1.2, say("follows", "跟读"), ha="right", color=GREY, fontsize=9)
    return as_svg(axes.get_figure())  # type: ignore[arg-type]


def canvas(width: float, height: float) -> Axes:
    """An empty drawing without axes, 8.4 wide and 4 high in its own units."""
    axes = new_figure(width, height).add_subplot(xlim=(0, 8.2), ylim=(-0.4, 3.7))
    axes.set_axis_off()
    return axes


def box(axes: Axes, x: float, y: float, text: str, color: str, width: float = 1.6) -> None:
    """A box with text, its middle at (x, y)."""
    edges = {"boxstyle": "round,pad=0.4", "facecolor": PAPER, "edgecolor": color, "linewidth": 1.6}
    axes.text(x, y, text, ha="center", va="center", bbox=edges, fontsize=10)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str) -> None:
    """An arrow, with a word beside its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK})
    axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.08, text, ha="center", fontsize=9)


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
    top.legend()
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
        axes.plot(seconds, steps, ".-", markersize=3, label=f"{say('attempt', '第几次尝试：')} {attempt}")
        saved = [(when, row["step"]) for when, row in rows if row.get("checkpoint")]
        axes.plot(*zip(*saved, strict=True), "s", color=GREEN, markersize=6, zorder=3) if saved else None
        if steps[0] <= newest:
            axes.axhspan(steps[0], newest, color=ORANGE, alpha=0.15, label=say("steps done again", "重做的步"))
        newest = max(newest, steps[-1])
    axes.plot([], [], "s", color=GREEN, label=say("checkpoint", "检查点"))
    axes.legend()
    return as_svg(axes.get_figure())  # type: ignore[arg-type]
