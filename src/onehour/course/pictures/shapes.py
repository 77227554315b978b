"""Tensors as pictures: how many dimensions they have, what broadcasting repeats, where a view's numbers lie in memory."""

from itertools import accumulate

import matplotlib as mpl
import torch
from IPython.display import SVG
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from onehour.course.pictures.style import BLUE, GREY, INK, ORANGE, PAPER, as_svg, new_figure
from onehour.course.words import say

INCH = 0.38  # the side of a cell
GAP = 1.5  # cells between two tensors
SHEET = 0.9  # how far each sheet of a 3-D tensor lies to the right of and above the one before it, in cells
Color = tuple[float, float, float]


def draw(**tensors: Tensor) -> SVG:
    """Tensors of 0 to 3 dimensions side by side, a cell for each number: `draw(s=scalar, v=vector)`."""
    widths = [max(_extent(tensor)[0], 3.0) for tensor in tensors.values()]
    height = max(_extent(tensor)[1] for tensor in tensors.values())
    figure, axes = _canvas(sum(widths) + GAP * (len(widths) - 1), height + 1.9)
    lefts = accumulate(widths[:-1], lambda left, width: left + width + GAP, initial=0.0)
    for left, (name, tensor) in zip(lefts, tensors.items(), strict=True):
        sheets = _sheets(tensor)
        for i in reversed(range(len(sheets))):  # sheet 0 lies in front
            _grid(axes, sheets[i], left + SHEET * i, 1.9 + SHEET * (len(sheets) - 1 - i), layer=len(sheets) - i)
        _title(axes, left, name, f"{tensor.dim()}-D   {tuple(tensor.shape)}")
    return as_svg(figure)


def broadcast(a: Tensor, b: Tensor) -> SVG:
    """The sum of two tensors of up to 2 dimensions; what is there only once and is used again has a dashed edge."""
    total = a + b
    rows, columns = torch.atleast_2d(total).shape
    figure, axes = _canvas(3 * columns + 2 * GAP, rows + 1.1)
    for i, (tensor, sign) in enumerate([(a, "+"), (b, "="), (total, "")]):
        left = i * (columns + GAP)
        fresh = torch.zeros(rows, columns, dtype=torch.bool)
        fresh[tuple(slice(size) for size in torch.atleast_2d(tensor).shape)] = True
        _grid(axes, tensor.expand(rows, columns), left, 1.1, fresh=fresh)
        _text(axes, left, 0.5, str(tuple(tensor.shape)), ha="left", color=GREY)
        _text(axes, left + columns + GAP / 2, 1.1 + rows / 2, sign, size=15)
    return as_svg(figure)


def memory(**views: Tensor) -> SVG:
    """Tensors of 1 or 2 dimensions that share one storage: the storage as one row, and each number's place in it."""
    first = next(iter(views.values()))
    places = torch.arange(first.untyped_storage().nbytes() // first.element_size())
    stored = first.as_strided(places.shape, (1,), 0)
    widths = [max(torch.atleast_2d(view).shape[1], 3.9) for view in views.values()]
    height = max(torch.atleast_2d(view).shape[0] for view in views.values())
    figure, axes = _canvas(max(len(places) + 0.0, sum(widths) + GAP * (len(widths) - 1)), height + 5.4)
    _text(axes, 0, 0.4, say("storage: one row of numbers", "存储：一排数"), ha="left", weight="bold")
    _grid(axes, stored, 0, 1.0, colors=[_shade(place / len(places)) for place in places.tolist()])
    lefts = accumulate(widths[:-1], lambda left, width: left + width + GAP, initial=0.0)
    for left, (name, view) in zip(lefts, views.items(), strict=True):
        where = places.as_strided(view.shape, view.stride(), view.storage_offset()).flatten()
        _title(axes, left, name, say("shape", "形状") + f" {tuple(view.shape)}", top=2.6)
        strides = say("stride", "步幅") + f" {view.stride()}"
        _text(axes, left, 4.7, strides, ha="left", color=GREY)
        _grid(axes, view, left, 5.3, colors=[_shade(place / len(places)) for place in where.tolist()])
    return as_svg(figure)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose unit is one cell, counted from the top left."""
    figure = new_figure(width * INCH + 0.3, height * INCH + 0.3)
    axes = figure.subplots()
    axes.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1), aspect="equal")
    axes.axis("off")
    return figure, axes


def _sheets(tensor: Tensor) -> Tensor:
    """(), (W), (H, W) or (D, H, W) -> (D, H, W)."""
    return tensor.reshape((1,) * (3 - tensor.dim()) + tuple(tensor.shape))


def _extent(tensor: Tensor) -> tuple[float, float]:
    """Width and height of a drawn tensor in cells."""
    depth, height, width = _sheets(tensor).shape
    return width + SHEET * (depth - 1), height + SHEET * (depth - 1)


def _grid(
    axes: Axes, values: Tensor, left: float, top: float,
    fresh: Tensor | None = None, colors: list[Color] | None = None,
    layer: int = 1,
) -> None:  # fmt: skip
    """The numbers of a tensor of up to 2 dimensions, (H, W), in cells; those that are not `fresh` are dashed."""
    columns = torch.atleast_2d(values).shape[1]
    for i, value in enumerate(values.flatten().tolist()):
        x, y = left + i % columns, top + i // columns
        there = fresh is None or bool(fresh.flatten()[i])
        color = colors[i] if colors else _tint(BLUE, 0.8) if there else to_rgb(PAPER)
        edge = {"edgecolor": BLUE, "linewidth": 1} if there else {"edgecolor": ORANGE, "linestyle": (0, (2, 2))}
        axes.add_patch(Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, facecolor=color, zorder=layer, **edge))
        _text(axes, x + 0.5, y + 0.5, f"{value:g}", size=9, layer=layer + 0.5)


def _title(axes: Axes, left: float, name: str, about: str, top: float = 0.0) -> None:
    _text(axes, left, top + 0.5, name, ha="left", weight="bold")
    _text(axes, left, top + 1.3, about, ha="left", color=GREY)


def _text(
    axes: Axes, x: float, y: float, text: str, ha: str = "center", size: float = 10.5, color: str = INK,
    weight: str = "normal", layer: float = 1,
) -> None:  # fmt: skip
    axes.text(x, y, text, ha=ha, va="center", fontsize=size, color=color, fontweight=weight, zorder=layer)


def _tint(color: str | Color, white: float) -> Color:
    """A color mixed with white: 0 is the color, 1 is white."""
    r, g, b = (channel + (1 - channel) * white for channel in to_rgb(color))
    return r, g, b


def _shade(place: float) -> Color:
    """A light color of the rainbow for a place in the storage, from 0 (its begin) to 1."""
    r, g, b, _ = mpl.colormaps["Spectral"](0.1 + 0.8 * place)
    return _tint((r, g, b), 0.45)
