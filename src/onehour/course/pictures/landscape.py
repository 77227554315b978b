"""A loss over two weights, seen from above, with the ways that optimizers took on it."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from IPython.display import SVG
from matplotlib.axes import Axes
from torch import Tensor

from onehour.course.pictures.style import BLUE, GREEN, GREY, INK, ORANGE, PAPER, PURPLE, as_svg, new_figure
from onehour.course.words import say

COLORS = (ORANGE, BLUE, GREEN, PURPLE)


def draw(
    loss: Callable[[Tensor], Tensor], paths: Mapping[str, Tensor], lowest: tuple[float, float], names: tuple[str, str]
) -> SVG:
    """Contours of `loss`, weights (..., 2) -> (...), and up to four paths, each (num_steps + 1, 2).

    `lowest` is where the loss is lowest, `names` are those of the two weights.
    """
    figure = new_figure(8, 5)
    axes = figure.subplots()
    points = torch.cat([*paths.values(), torch.tensor([lowest])])
    contours(axes, loss, points.amin(dim=0) - 0.3, points.amax(dim=0) + 0.3)
    for (name, path), color in zip(paths.items(), COLORS, strict=False):
        axes.plot(*path.T.numpy(), "o-", color=color, label=name, markersize=2.5, linewidth=1.2)
    start = next(iter(paths.values()))[0]
    axes.plot(*start.numpy(), "o", color=INK, markersize=7, label=say("start", "起点"))
    axes.plot(*lowest, "*", color=INK, markersize=13, label=say("lowest loss", "损失最低处"))
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.legend(frameon=True, facecolor=PAPER, edgecolor=PAPER, framealpha=1)  # the contours do not run through it
    return as_svg(figure)


def contours(axes: Axes, loss: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> None:
    """Lines of equal loss between the corners `low` and `high`, both (2,); each line is at three times the last."""
    across, up = (torch.linspace(float(a), float(b), 80) for a, b in zip(low, high, strict=True))
    heights = loss(torch.cartesian_prod(across, up)).reshape(80, 80).T
    levels = 3.0 ** np.arange(-4, 8)
    lines = axes.contour(across, up, heights, levels=levels, colors=GREY, linewidths=0.6, alpha=0.7)
    axes.clabel(lines, fontsize=8, fmt="%.3g")
