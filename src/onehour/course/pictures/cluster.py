"""A Ray cluster: who runs where, and the way of a job."""

from IPython.display import SVG
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from onehour.course.pictures.style import BLUE, GREEN, GREY, INK, ORANGE, PAPER, PURPLE, as_svg, new_figure
from onehour.course.words import say

HEAD = (
    ("jobs and dashboard  :8265", "任务与仪表盘  :8265"),
    ("control store (GCS)  :6379", "控制存储（GCS） :6379"),
    ("raylet", "raylet"),
    ("driver: onehour train", "driver：onehour train"),
)


def draw(num_nodes: int = 3) -> SVG:
    """Your machine, the head, `num_nodes` worker nodes of two workers each, and the storage that all of them see."""
    figure = new_figure(9, 4.6)
    axes = figure.add_subplot(xlim=(-0.5, 100.5), ylim=(-0.5, 57))
    axes.axis("off")
    box(axes, 0, 30, 19, 14, say("your machine", "你的机器"), GREY)
    box(axes, 1.5, 32, 16, 6, "ray job submit", INK, inner=True)
    box(axes, 30, 14, 28, 42, say("head node", "头节点"), BLUE)
    for i, names in enumerate(HEAD):
        box(axes, 31.5, 42 - 8.5 * i, 25, 6.5, say(*names), ORANGE if i == 3 else BLUE, inner=True)
    height = 42 / num_nodes
    for i in range(num_nodes):
        y = 56 - height * (i + 1)
        box(axes, 71, y + 1, 29, height - 1, say(f"worker node {i + 1}: raylet", f"工作节点 {i + 1}：raylet"), GREEN)
        for j in range(2):
            name = f"rank {2 * i + j}"
            box(axes, 72.5 + 13.5 * j, y + 2.5, 12.5, height - 8, name, ORANGE, inner=True)
        arrow(axes, (58, 19.8), (71, y + height / 2), ORANGE)
    shared = say("storage that all nodes see: runs, checkpoints, text", "所有节点都能看到的存储：运行、检查点、文本")
    box(axes, 30, 0, 70, 8, shared, PURPLE, inner=True)
    arrow(axes, (17.5, 35), (31.5, 45.2), GREY, say("entrypoint\nand source", "入口命令\n与源代码"))
    arrow(axes, (44, 14), (44, 8), PURPLE)
    arrow(axes, (85.5, 15), (85.5, 8), PURPLE)
    return as_svg(figure)


def box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str, inner: bool = False
) -> None:
    """A rounded box; its text stands at the top, or with `inner` in the middle of a filled one."""
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=1", edgecolor=color, linewidth=1.4,
        facecolor=color if inner else PAPER, alpha=0.14 if inner else 1,
    )  # fmt: skip
    axes.add_patch(shape)
    place = (x + width / 2, y + height / 2 if inner else y + height - 2.6)
    axes.text(*place, text, ha="center", va="center", fontsize=9, fontweight="normal" if inner else "bold", color=INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, text: str = "") -> None:
    """An arrow from `start` to `end`, with a text at its middle."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=color, linewidth=1.2))
    if text:
        axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 7, text, ha="center", fontsize=8.5, color=INK)
