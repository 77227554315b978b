"""Losses and what they stand for: how well models of different capacity fit, and how a training goes on."""

from collections.abc import Sequence

import torch
from IPython.display import SVG
from matplotlib.axes import Axes
from torch import Tensor, nn

from onehour.course.pictures.style import BLUE, GREY, INK, ORANGE, as_svg, new_figure
from onehour.course.words import say

Rows = Sequence[tuple[int, float, float]]  # (step, loss on the training points, loss on the held-out points)


def capacities(fits: Sequence[tuple[nn.Module, Rows]], features: Tensor, targets: Tensor) -> SVG:
    """Each fit is a column: above, the function that it learned; below, its losses.

    `features` and `targets` are the training points, both (N, 1).
    """
    figure = new_figure(8, 5)
    axes = figure.subplots(2, len(fits), sharey="row", squeeze=False)
    for (model, rows), above, below in zip(fits, axes[0], axes[1], strict=True):
        count = sum(parameter.numel() for parameter in model.parameters())
        above.set_title(f"{count:,} {say('parameters', '个参数')}")
        draw_function(above, model, features, targets)
        draw_losses(below, rows)
    axes[0][0].set_ylabel("y")
    axes[1][0].set_ylabel(say("loss", "损失"))
    axes[1][0].legend()
    return as_svg(figure)


def draw_function(axes: Axes, model: nn.Module, features: Tensor, targets: Tensor) -> None:
    """The training points (N, 1), the sine that they come from, and what `model` makes of [-3, 3]."""
    x = torch.linspace(-3, 3, 121)[:, None]
    with torch.no_grad():
        axes.plot(x[:, 0], model(x)[:, 0], color=ORANGE, linewidth=2)
    axes.plot(x[:, 0], x[:, 0].sin(), color=GREY, linestyle="--", linewidth=1)
    axes.scatter(features[:, 0], targets[:, 0], color=BLUE, s=18, zorder=3)
    axes.set_xlabel("x")


def draw_losses(axes: Axes, rows: Rows) -> None:
    """Both losses by step, with a mark where the held-out loss is lowest."""
    steps, train, held_out = zip(*rows, strict=True)
    axes.plot(steps, train, color=BLUE, label=say("training points", "训练数据"))
    axes.plot(steps, held_out, color=ORANGE, label=say("held-out points", "留出数据"))
    lowest = min(rows, key=lambda row: row[2])
    axes.plot(lowest[0], lowest[2], "o", color=INK, label=say("lowest held-out loss", "留出损失最低处"))
    axes.set_xlabel(say("step", "优化步"))
    axes.set_ylim(0, 1)


def resumed(before: Sequence[float], whole: Sequence[float], exact: Sequence[float], bare: Sequence[float]) -> SVG:
    """The losses of a training before it was saved, and three ways in which it went on from there.

    `whole` was never stopped, `exact` had everything restored, `bare` had no moments of the optimizer.
    """
    figure = new_figure(8, 3.4)
    axes = figure.subplots()
    steps = range(len(before) + 1, len(before) + len(whole) + 1)
    axes.plot(range(1, len(before) + 1), before, color=GREY)
    axes.plot(steps, bare, color=ORANGE, label=say("without the optimizer's moments", "缺少优化器的矩"))
    axes.plot(steps, whole, color=GREY, linewidth=5, alpha=0.5, label=say("never stopped", "从未中断"))
    axes.plot(steps, exact, color=BLUE, label=say("everything restored", "恢复全部状态"))
    axes.axvline(len(before) + 0.5, color=INK, linestyle=":", linewidth=1)
    axes.set_xlabel(say("step", "优化步"))
    axes.set_ylabel(say("loss", "损失"))
    axes.legend()
    return as_svg(figure)
