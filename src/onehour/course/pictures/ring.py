"""Ring all-reduce: workers in a circle add up their gradients, each speaking to its neighbour only."""

from collections.abc import Sequence

from IPython.display import SVG
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from onehour.course.pictures.style import BLUE, INK, ORANGE, PAPER, as_svg, new_figure
from onehour.course.words import say

Holding = list[list[frozenset[int]]]  # [worker][chunk]: whose numbers are added up there


def simulate(num_workers: int) -> list[tuple[Holding, list[int]]]:
    """What each worker holds at the start and after each step, and which chunk it received in that step.

    In step t worker w receives from worker w - 1 the chunk w - 1 - t (all modulo `num_workers`). In the first
    num_workers - 1 steps it adds it to its own (reduce-scatter), in the others it takes it over (all-gather).
    """
    holding: Holding = [[frozenset([worker])] * num_workers for worker in range(num_workers)]
    history: list[tuple[Holding, list[int]]] = [(holding, [])]
    for t in range(2 * (num_workers - 1)):
        received = [(worker - 1 - t) % num_workers for worker in range(num_workers)]
        before, holding = holding, [list(chunks) for chunks in holding]
        for worker, chunk in enumerate(received):
            own = before[worker][chunk] if t < num_workers - 1 else frozenset()
            holding[worker][chunk] = own | before[worker - 1][chunk]
        history.append((holding, received))
    return history


def draw(num_workers: int = 3) -> SVG:
    """One panel for each step: columns are workers, rows are the chunks of the gradient."""
    history = simulate(num_workers)
    figure = new_figure(1.65 * len(history), 2.7)
    half = num_workers - 1
    titles = [say("start", "开始")]
    titles += [f"reduce-scatter {i + 1}" for i in range(half)]
    titles += [f"all-gather {i + 1}" for i in range(half)]
    panels: Sequence[Axes] = figure.subplots(1, len(history), sharey=True)
    for axes, title, (holding, received) in zip(panels, titles, history, strict=True):
        panel(axes, title, holding, received)
    panels[0].set_yticks(range(num_workers), [say(f"chunk {i}", f"第 {i} 块") for i in range(num_workers)])
    return as_svg(figure)


def panel(axes: Axes, title: str, holding: Holding, received: Sequence[int]) -> None:
    """What the workers hold; an arrow shows where a chunk came in, a dark cell the sum over all workers."""
    num_workers = len(holding)
    for worker, chunks in enumerate(holding):
        for chunk, added in enumerate(chunks):
            whole = len(added) == num_workers
            shade = (len(added) / num_workers) ** 2
            axes.add_patch(Rectangle((worker - 0.38, chunk - 0.4), 0.76, 0.8, color=BLUE, alpha=shade))
            text = "+".join(map(str, sorted(added)))
            axes.text(worker, chunk, text, ha="center", va="center", color=PAPER if whole else INK, fontsize=8)
    for worker, chunk in enumerate(received):
        arrow = {"arrowstyle": "-|>", "color": ORANGE, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
        height = chunk - 0.28
        axes.annotate("", (worker - 0.3, height), (worker - 0.75, height), arrowprops=arrow, annotation_clip=False)
    axes.set_title(title, fontsize=11)
    axes.set(xlim=(-0.8, num_workers - 0.55), ylim=(num_workers - 0.5, -0.5))
    axes.set_xticks(range(num_workers))
    axes.set_xlabel(say("worker", "工作进程"))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
