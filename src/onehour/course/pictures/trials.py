"""Searches: the learning curves of trials, what was tried, and how the best grew better."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from IPython.display import SVG
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from onehour.course.pictures.style import BLUE, GREY, ORANGE, as_svg, new_figure
from onehour.course.words import say

LOSS = "held_out_loss"
ROUND = (0.05, 0.1, 0.2, 0.5, 1, 2)  # the numbers at an axis of losses


def curves(results: Iterable[Any], num_steps: int, rungs: Sequence[int] = ()) -> SVG:
    """The held-out loss of each of Tune's results over its steps: where it was stopped, and the best one."""
    axes = new_figure(8, 4.2).add_subplot()
    histories = [result.metrics_dataframe for result in results]
    best = min(range(len(histories)), key=lambda i: histories[i][LOSS].iloc[-1])
    for i, history in enumerate(histories):
        steps, values = list(history["step"]), list(history[LOSS])
        color = ORANGE if i == best else BLUE if steps[-1] >= num_steps else GREY
        axes.plot(steps, values, color=color, linewidth=2.5 if i == best else 1.2, zorder=3 if i == best else 2)
        axes.plot(steps[-1], values[-1], "x" if steps[-1] < num_steps else "o", color=color, markersize=7)
    named = ((ORANGE, "o", say("the best", "最好的")), (BLUE, "o", say("trained to the end", "训练到底")),
             (GREY, "x", say("stopped here", "在此停止")))  # fmt: skip
    drawn = {line.get_color() for line in axes.get_lines()}
    axes.legend(handles=[Line2D([], [], color=c, marker=m, label=label) for c, m, label in named if c in drawn])
    for rung in rungs:
        axes.axvline(rung, color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel=say("optimizer step", "优化步"), ylabel=say("held-out loss", "留出集损失"))
    log_losses(axes)
    return as_svg(axes.get_figure())  # type: ignore[arg-type]


def choices(searches: Mapping[str, Iterable[Any]], x: str, y: str) -> SVG:
    """What each search tried: a panel for each, two hyperparameters as its axes, a darker dot for a lower loss."""
    figure = new_figure(8, 3)
    panels = figure.subplots(1, len(searches), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (name, results) in zip(panels, searches.items(), strict=True):
        tried = [(each.config[x], each.config[y], each.metrics[LOSS]) for each in results]
        xs, ys, values = zip(*tried, strict=True)
        dots = panel.scatter(xs, ys, c=values, cmap="viridis", vmin=0, vmax=2.3, s=45, edgecolor=GREY, linewidth=0.5)
        panel.set(xscale="log", yscale="log", xlabel=x, title=name)
    panels[0].set_ylabel(y)
    figure.colorbar(dots, ax=panels, label=say("held-out loss", "留出集损失"))
    return as_svg(figure)


def best_so_far(searches: Mapping[str, Iterable[Any]]) -> SVG:
    """The lowest loss of each search after so many steps of all its trials together, in the order of their start."""
    axes = new_figure(8, 3.6).add_subplot()
    for name, results in searches.items():
        ends = [each.metrics for each in results]
        spent = list(accumulate(end["step"] for end in ends))
        lowest = list(accumulate((end[LOSS] for end in ends), min))
        axes.step(spent, lowest, where="post", marker="o", markersize=4, label=f"{name}: {lowest[-1]:.3f}")
    axes.set_xlabel(say("optimizer steps, all trials together", "所有试验的优化步总数"))
    axes.set_ylabel(say("lowest held-out loss so far", "至今最低的留出集损失"))
    axes.legend()
    log_losses(axes)
    return as_svg(axes.get_figure())  # type: ignore[arg-type]


def log_losses(axes: Axes) -> None:
    """A logarithmic axis of losses, with numbers that one can read."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in ROUND if low < tick < high], minor=False)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def population(rounds: Sequence[Sequence[tuple[float, float]]], steps_of_a_round: int) -> SVG:
    """A population after each round: the loss and the learning rate of each member. `rounds` has (rate, loss) pairs."""
    figure = new_figure(8, 3.4)
    left, right = figure.subplots(1, 2, sharex=True)
    steps = [(i + 1) * steps_of_a_round for i in range(len(rounds))]
    for member in zip(*rounds, strict=True):
        rates, values = zip(*member, strict=True)
        left.plot(steps, values, "o-", markersize=4)
        right.plot(steps, rates, "o-", markersize=4)
    left.set(ylabel=say("held-out loss", "留出集损失"), xlabel=say("optimizer step", "优化步"))
    log_losses(left)
    right.set(yscale="log", ylabel=say("learning rate", "学习率"), xlabel=say("optimizer step", "优化步"))
    return as_svg(figure)
