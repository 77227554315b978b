"""How a training scales, as a table, sentences and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onehour.show.table import align
from onehour.show.terminal import count, in_bytes
from onehour.training.scaling import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from onehour.cluster.scaling import Machines, Measured

NAMES = ("data", "compute", "waiting", "exchange", "update")
COLORS = ("#868e96", "#4c8cb5", "#e8a100", "#d9480f", "#2b8a3e")
MEASURED, PREDICTED = "#4c8cb5", "#d9480f"


def results_text(sizes: "Sequence[Measured]", model: Model, unit: tuple[str, int]) -> str:
    """A line for each number of workers: throughput, speed-up, efficiency, what the model says, and the parts of a step."""
    head = ["workers", "cores", "batch", f"{unit[0]}/s", "speed-up", "efficiency", "predicted", "step"]
    lines = [[*head, *NAMES, "rest"]]
    for one in sizes:
        gain = speedup_of(one, sizes[0])
        parts = [getattr(one.parts, name) for name in NAMES]
        lines.append(
            [
                f"{one.workers}", f"{one.cores:g}", f"{one.global_batch_size:,}", f"{one.samples_per_second * unit[1]:,.0f}",
                f"{gain:.2f}", f"{gain * sizes[0].workers / one.workers:.0%}",
                f"{model.speedup(one.workers) / model.speedup(sizes[0].workers):.2f}",
                milliseconds(one.step), *map(milliseconds, parts), milliseconds(one.step - sum(parts)),
            ]
        )  # fmt: skip
    return align(lines)


def speedup_of(one: "Measured", first: "Measured") -> float:
    """How many times as many samples per second as the first."""
    return one.samples_per_second / first.samples_per_second


def milliseconds(seconds: float) -> str:
    """Such as 12.3 ms."""
    return f"{1000 * seconds:.1f} ms"


def explanation(sizes: "Sequence[Measured]", model: Model, there: "Machines", weak: bool) -> list[str]:
    """What the numbers say, in sentences."""
    first, last = sizes[0], sizes[-1]
    update = first.parts.update / sum(vars(first.parts).values())
    told = [
        "The parts were measured one after the other. The rest is what a step of the training takes beyond them: looking "
        "after itself, or below zero, what overlaps. "
        f"Of a step of {count(first.workers, 'worker')}, {update:.1%} is the update, which no number of workers divides "
        "(Amdahl)."
    ]
    if model.bandwidth < float("inf"):
        told.append(
            f"Each step exchanges the gradients, {in_bytes(model.gradient_bytes)}; a ring of {last.workers} sends "
            f"{2 * (last.workers - 1) / last.workers:.2g} times that over each link, here at {in_bytes(model.bandwidth)}/s"
            + (f" and {1e6 * model.latency:,.0f} µs a round." if model.latency else ".")
        )
    cores, threads = count(there.num_cores, "core"), [one.workers * max(1, one.cores) for one in (first, last)]
    if there.num_nodes == 1 and threads[0] == threads[1]:
        told.append(
            f"All sizes share the same {cores}: {first.workers} x {first.cores:g} or {last.workers} x {last.cores:g}. More "
            "workers can only use them better; what is predicted holds for workers that bring cores of their own."
        )
    elif there.num_nodes == 1 and threads[1] > there.num_cores:
        told.append(
            f"{last.workers} workers share the {cores} of this machine; what is predicted holds for workers that bring "
            "cores of their own."
        )
    if weak:
        told.append("The batch grows with the workers (--weak), so each size is another training, with other losses.")
    return told


def simulation_text(model: Model, workers: Sequence[int], global_batch_size: int) -> str:
    """A line for each simulated number of workers."""
    lines = [["simulated", "speed-up", "efficiency", "step", ""]]
    for n in workers:
        remark = (
            ""
            if model.weak or n <= global_batch_size
            else f"more workers than the {global_batch_size:,} samples of a batch"
        )
        gain = model.speedup(n)
        lines.append([f"{n:,}", f"{gain:,.2f}", f"{gain / n:.1%}", milliseconds(model.seconds(n)), remark])
    return align(lines)


def save_picture(sizes: "Sequence[Measured]", model: Model, simulated: Sequence[int], title: str, path: Path) -> Path:
    """Speed-up, measured and predicted, beside what a step consists of at each size, into the PNG `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    left, right = figure.subplots(1, 2)
    draw_speedup(left, sizes, model, simulated)
    draw_parts(right, sizes)
    figure.savefig(path, dpi=120)
    return path


def draw_speedup(axes: "Axes", sizes: "Sequence[Measured]", model: Model, simulated: Sequence[int]) -> None:
    """Speed-up over the smallest size; what was not run is hollow and dashed."""
    first = sizes[0]
    workers = [one.workers for one in sizes]
    everything = sorted({*workers, *simulated})
    axes.plot(everything, [n / first.workers for n in everything], color="#adb5bd", linestyle=":", label="ideal")
    predicted = [model.speedup(n) / model.speedup(first.workers) for n in everything]
    axes.plot(
        everything, predicted, color=PREDICTED, linestyle="--", marker="o", markerfacecolor="none", label="simulated"
    )
    axes.plot(workers, [speedup_of(one, first) for one in sizes], color=MEASURED, marker="o", label="measured")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("workers")
    axes.set_ylabel(f"times the samples/s of {first.workers}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def draw_parts(axes: "Axes", sizes: "Sequence[Measured]") -> None:
    """The parts of a step as stacked bars, and the step of the training as a mark across."""
    labels, bottom = [str(one.workers) for one in sizes], [0.0] * len(sizes)
    for name, color in zip(NAMES, COLORS, strict=True):
        heights = [1000 * getattr(one.parts, name) for one in sizes]
        axes.bar(labels, heights, bottom=bottom, color=color, label=name, width=0.6)
        bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
    steps = [1000 * one.step for one in sizes]
    axes.plot(labels, steps, linestyle="none", marker="_", markersize=30, color="black", label="step of the training")
    axes.set_ylim(0, 1.3 * max(bottom + steps))  # room for the legend
    axes.set_xlabel("workers")
    axes.set_ylabel("ms a step, part after part")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper center")
