"""The computation graph of a loss, read from the graph that autograd keeps: nothing here knows the formula."""

import re
import textwrap
from dataclasses import dataclass, field

import torch
from IPython.display import SVG
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from onehour.course.pictures.style import BLUE, GREY, INK, ORANGE, PAPER, as_svg, new_figure
from onehour.course.words import say

WIDTH, HEIGHT = 1.2, 0.6  # of a box, in inches
COLUMN, ROW = 1.52, 0.9  # from one box to the next
ARC = 0.6  # how high an arrow goes over the boxes between its ends


@dataclass
class Box:
    """A leaf, a constant or an operation, and where its inputs come from."""

    source: Node | Tensor
    """An operation or a leaf (AccumulateGrad) of the graph, or a constant that an operation has saved."""
    inputs: list["Box"] = field(default_factory=list)
    column: int = 0
    row: float = 0.0

    @property
    def tensor(self) -> Tensor | None:
        """The constant or the leaf; an operation does not know its result."""
        found = self.source if isinstance(self.source, Tensor) else getattr(self.source, "variable", None)
        return found if isinstance(found, Tensor) else None


def draw(loss: Tensor, /, **tensors: Tensor) -> SVG:
    """The graph of `loss`, left to right: `draw(loss, x=x, w=w)`. The tensors give names; before `backward`."""
    return _picture(loss, tensors, gradients=False)


def draw_gradients(loss: Tensor, /, **tensors: Tensor) -> SVG:
    """The same graph, and under each box the derivative of `loss`, shape (), with respect to what comes out of it."""
    return _picture(loss, tensors, gradients=True)


def boxes_of(loss: Tensor, tensors: dict[str, Tensor]) -> list[Box]:
    """The boxes of the graph of `loss`, inputs before what they go into. Constants come in if they have a name."""
    named = {id(tensor) for tensor in tensors.values()}
    boxes: dict[int, Box] = {}

    def visit(source: Node | Tensor) -> Box:
        if id(source) not in boxes:
            parts = [] if isinstance(source, Tensor) else _inputs(source, named)
            inputs = [visit(part) for part in parts]
            boxes[id(source)] = Box(source, inputs)
        return boxes[id(source)]

    assert loss.grad_fn is not None
    visit(loss.grad_fn)
    return list(boxes.values())


def _inputs(node: Node, named: set[int]) -> list[Node | Tensor]:
    """What goes into an operation, in order. The graph has no node for a constant: it is among what was saved."""
    saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
    constants = [t for t in saved if isinstance(t, Tensor) and not t.requires_grad and id(t) in named]
    parts = [before or (constants.pop(0) if constants else None) for before, _ in node.next_functions]
    return [part for part in parts if part is not None]


def _place(boxes: list[Box]) -> None:
    """Columns by the longest way from a leaf; a leaf stands right before its first use. Rows so that little crosses."""
    num_leaves = 0
    for box in boxes:
        if box.inputs:
            box.column = 1 + max(before.column for before in box.inputs)
            box.row = sum(before.row for before in box.inputs) / len(box.inputs)
        else:
            box.row = num_leaves
            num_leaves += 1
    for box in boxes:
        if not box.inputs:
            box.column = min(user.column for user in boxes if box in user.inputs) - 1


def _picture(loss: Tensor, tensors: dict[str, Tensor], gradients: bool) -> SVG:
    boxes = boxes_of(loss, tensors)
    _place(boxes)
    derivatives = _derivatives(loss, boxes) if gradients else {}
    columns, rows = max(box.column for box in boxes) + 1, max(box.row for box in boxes) + 1
    width, height = columns * COLUMN - (COLUMN - WIDTH), rows * ROW + 0.35
    top = 0.5 * ARC if any(box.column - before.column > 1 for box in boxes for before in box.inputs) else 0.0
    figure = new_figure(width + 0.2, height + top + 0.2)
    axes = figure.subplots()
    axes.set(
        xlim=(-WIDTH / 2 - 0.05, width - WIDTH / 2 + 0.05), ylim=(height - ROW / 2, -ROW / 2 - top), aspect="equal"
    )
    axes.axis("off")
    for box in boxes:
        for i, before in enumerate(box.inputs):
            _arrow(axes, before, box, (i - (len(box.inputs) - 1) / 2) * 0.18)
        _box(axes, box, tensors, derivatives.get(id(box)))
    _legend(axes, rows * ROW - 0.33, boxes, gradients)
    return as_svg(figure)


def _derivatives(loss: Tensor, boxes: list[Box]) -> dict[int, Tensor]:
    """For each leaf and operation, by the id of its box, d loss / d its result. The graph is kept."""
    inside = [box for box in boxes if not isinstance(box.source, Tensor)]
    edges = [GradientEdge(box.source, 0) for box in inside if isinstance(box.source, Node)]
    found = torch.autograd.grad(loss, edges, retain_graph=True)
    return {id(box): derivative for box, derivative in zip(inside, found, strict=True)}


def _box(axes: Axes, box: Box, tensors: dict[str, Tensor], derivative: Tensor | None) -> None:
    x, y = box.column * COLUMN, box.row * ROW
    edge = INK if box.inputs else GREY if isinstance(box.source, Tensor) else BLUE
    shape = f"round,pad=0,rounding_size={0.06 if box.inputs else HEIGHT / 2}"
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=shape, facecolor=PAPER, edgecolor=edge, lw=1.4))
    axes.text(x, y, _label(box, tensors), ha="center", va="center", fontsize=9.5, linespacing=1.25)
    if derivative is not None:
        axes.text(x, y + HEIGHT / 2 + 0.13, _number(derivative), ha="center", va="center", fontsize=9.5, color=ORANGE)


def _label(box: Box, tensors: dict[str, Tensor]) -> str:
    """The operation, as autograd calls it, and below it what the reader calls the tensor that comes out."""
    names = [n for n, t in tensors.items() if t is box.tensor or (box.inputs and t.grad_fn is box.source)]
    value = f"{names[0]} = {_number(tensors[names[0]])}" if names else ""
    if not box.inputs:
        return value or say("leaf", "叶子")
    operation = re.sub(r"Backward\d*$", "", str(box.source.name()))  # type: ignore[union-attr]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", operation).lower()
    return "\n".join([*textwrap.wrap(words, 15), *([value] if value else [])])


def _number(tensor: Tensor) -> str:
    """The number in a tensor of one element, else the shape."""
    return f"{round(tensor.item(), 4):.5g}" if tensor.numel() == 1 else str(tuple(tensor.shape))


def _arrow(axes: Axes, before: Box, after: Box, aside: float) -> None:
    """From box to box; over those between them if there are any. `aside`: so that no two end at the same place."""
    left, right, columns = before.column * COLUMN, after.column * COLUMN, after.column - before.column
    style = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0}
    start, end = (left + WIDTH / 2, before.row * ROW), (right - WIDTH / 2, after.row * ROW + aside)
    if columns > 1:
        start, end = (left, before.row * ROW - HEIGHT / 2), (right - aside, after.row * ROW - HEIGHT / 2)
        style |= {"connectionstyle": f"arc3,rad={-0.8 * ARC / (right - left)}"}
    axes.annotate("", end, start, arrowprops=style)


def _legend(axes: Axes, y: float, boxes: list[Box], gradients: bool) -> None:
    entries = [(say("leaf that wants a gradient", "要梯度的叶子"), BLUE, True),
        (say("constant", "常量"), GREY, any(isinstance(box.source, Tensor) for box in boxes)),
        (say("operation", "运算"), INK, True),
        (say("derivative of the loss", "损失的导数"), ORANGE, gradients)]  # fmt: skip
    x = -WIDTH / 2
    for text, color, wanted in entries:
        if wanted:
            axes.text(x, y, f"■ {text}", color=color, fontsize=9.5, va="center")
            x += 0.45 + 0.068 * sum(1 if letter.isascii() else 2 for letter in text)
