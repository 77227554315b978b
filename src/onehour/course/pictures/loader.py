"""What the processes of a DataLoader and the training do when, from measured times."""

from collections.abc import Mapping, Sequence

from IPython.display import SVG
from matplotlib.axes import Axes

from onehour.course.datasets import Stretch
from onehour.course.pictures.style import BLUE, ORANGE, as_svg, new_figure
from onehour.course.words import say


def draw(timelines: Mapping[int, Sequence[Stretch]]) -> SVG:
    """A panel for each number of worker processes: a row for each process, a bar for each batch that it held."""
    figure = new_figure(8, 1.1 + 0.4 * sum(number + 2 for number in timelines))
    rows = figure.subplots(
        len(timelines),
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": [number + 1.6 for number in timelines]},
    )
    for axes, (number, stretches) in zip(rows[:, 0], timelines.items(), strict=True):
        axes.set_title(f"num_workers={number}", fontsize=10)
        bars(axes, number, stretches)
    rows[-1, 0].set_xlim(left=0)
    rows[-1, 0].set_xlabel(say("milliseconds", "毫秒"))
    handles = rows[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2)
    return as_svg(figure)


def bars(axes: Axes, number: int, stretches: Sequence[Stretch]) -> None:
    """The rows of one panel: the training process at the bottom, its workers above it."""
    labels = {True: say("training", "训练"), False: say("loading", "加载")}
    for kind, color in ((False, ORANGE), (True, BLUE)):
        chosen = [s for s in stretches if s.training == kind]
        widths = [1e3 * (s.ended - s.began) for s in chosen]
        lefts = [1e3 * s.began for s in chosen]
        axes.barh([s.process for s in chosen], widths, 0.7, lefts, color=color, edgecolor="white", label=labels[kind])
        for s, left, width in zip(chosen, lefts, widths, strict=True):
            axes.text(left + width / 2, s.process, str(s.batch), ha="center", va="center", color="white", fontsize=8)
    names = [say("main", "主进程"), *(say(f"worker {i}", f"工作进程 {i}") for i in range(number))]
    axes.set_yticks(range(-1, number), names)
    axes.set_ylim(-1.6, number - 0.4)
