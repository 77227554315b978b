"""Activation functions and their slopes."""

from collections.abc import Callable, Mapping

import torch
from IPython.display import SVG
from torch import Tensor

from onehour.course.pictures.style import BLUE, GREY, ORANGE, as_svg, new_figure
from onehour.course.words import say


def draw(functions: Mapping[str, Callable[[Tensor], Tensor]]) -> SVG:
    """Each function (N,) -> (N,) from -4 to 4 in a panel of its own, with its slope as autograd gives it."""
    figure = new_figure(8, 2.6)
    for axes, (name, function) in zip(figure.subplots(1, len(functions), sharey=True), functions.items(), strict=True):
        x = torch.linspace(-4, 4, 81, requires_grad=True)
        y = function(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.plot(x.detach(), y.detach(), color=BLUE, label=say("value", "函数值"))
        axes.plot(x.detach(), slope, "--", color=ORANGE, label=say("slope", "斜率"))
        axes.set(title=name, ylim=(-1.2, 4))
    axes.legend(loc="upper left")
    return as_svg(figure)
