"""How a training scales, as tables, sentences and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onehour.config import ScalingConfig
from onehour.show.table import align
from onehour.show.terminal import count, in_bytes
from onehour.training.plan import Plan
from onehour.training.scaling import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from onehour.cluster.scaling import Measured, Start

NAMES = ("data", "compute", "waiting", "exchange", "update")
COLORS = ("#868e96", "#4c8cb5", "#e8a100", "#d9480f", "#2b8a3e")
MEASURED, PREDICTED, AMDAHL, IDEAL = "#4c8cb5", "#d9480f", "#2b8a3e", "#adb5bd"


def start_text(plan: Plan, asked: ScalingConfig, start: "Start") -> str:
    """What is about to be measured, as aligned lines."""
    sizes = " and ".join(", ".join(map(str, asked.workers)).rsplit(", ", 1))
    each = " for each worker" if asked.weak else ", whatever the number of workers"
    samples = plan.micro_batch_size * plan.accumulation * plan.workers // (plan.workers if asked.weak else 1)
    return (
        f"scaling    {sizes} worker{'s' * (asked.workers != (1,))} on {count(start.num_nodes, 'node')} with "
        f"{count(start.num_cores, 'CPU core')}, {count(plan.num_steps, 'step')} each\n"
        f"batch      {count(samples, 'sample')}{each}\nruns       {start.folder}"
    )


def results_text(sizes: "Sequence[Measured]", model: Model, unit: tuple[str, int]) -> str:
    """A line for each number of workers: throughput, speed-up and efficiency, and the speed-up that theory gives."""
    lines = [["workers", "cores each", "batch", f"{unit[0]}/s", "speed-up", "efficiency", "Amdahl", "Amdahl and ring"]]
    for one in sizes:
        gain = speedup_of(one, sizes[0])
        predicted = [f"{gain_by(each, one.workers, sizes[0].workers):.2f}" for each in (model.amdahl(), model)]
        lines.append(
            [
                f"{one.workers}", f"{one.cores:g}", f"{one.global_batch_size:,}", f"{one.samples_per_second * unit[1]:,.0f}",
                f"{gain:.2f}", f"{gain * sizes[0].workers / one.workers:.0%}", *predicted,
            ]
        )  # fmt: skip
    return align(lines)


def parts_text(sizes: "Sequence[Measured]") -> str:
    """A line for each number of workers: the step of the training, its parts, and what they leave of it."""
    lines = [["workers", "ms a step", *NAMES, "rest"]]
    for one in sizes:
        times = [one.step, *(getattr(one.parts, name) for name in NAMES), one.rest]
        lines.append([f"{one.workers}", *(f"{1000 * seconds:.2f}" for seconds in times)])
    return align(lines)


def speedup_of(one: "Measured", first: "Measured") -> float:
    """How many times as many samples per second as the first."""
    return one.samples_per_second / first.samples_per_second


def gain_by(model: Model, workers: int, first: int) -> float:
    """How many times as many samples per second as `first` workers, by the model."""
    return model.speedup(workers) / model.speedup(first)


def explanation(sizes: "Sequence[Measured]", model: Model, start: "Start") -> list[str]:
    """What the numbers say, in sentences."""
    told = [not_divided(sizes[0], model), exchanged(sizes[-1].workers, model)]
    told += [rest_below_zero(one) for one in sizes]
    if start.num_nodes == 1:
        told.append(shared_cores(sizes[0], sizes[-1], start.num_cores))
    if model.weak:
        told.append(
            "The batch grows with the workers (--weak): each size is another training, and losses are not compared."
        )
    return [sentence for sentence in dict.fromkeys(told) if sentence]


def rest_below_zero(one: "Measured") -> str:
    """What it means that the parts take longer than the step, by more than a measurement is exact; empty if they don't."""
    if one.rest > -0.05 * one.step:
        return ""
    if one.workers > 1:
        return "A rest below zero is time in which parts overlap: the exchange runs while backward does."
    return (
        "One worker has nothing that overlaps: its rest below zero says that this machine was not quiet. Measure again."
    )


def not_divided(first: "Measured", model: Model) -> str:
    """What Amdahl's law is about: the part of a step that no number of workers divides."""
    of_step = f"Of a step of {count(first.workers, 'worker')}, {model.serial / first.step:.0%} "
    what = "the update, and the rest, which is what the training takes beyond the parts"
    if model.weak:
        return f"{of_step}does not grow with the batch: {what}."
    most = f"{model.seconds(1) / model.serial:,.1f}"
    return (
        f"{of_step}is divided by no number of workers: {what}. By Amdahl no number is more than {most} times as fast."
    )


def exchanged(workers: int, model: Model) -> str:
    """What the ring is about: how much is sent, and how fast."""
    gradients = in_bytes(model.gradient_bytes)
    if not model.seconds_per_byte and not model.latency:
        return f"Nothing was exchanged; what gradients of {gradients} cost is not known and counts as nothing here: add a size."
    speed = f"{in_bytes(1 / model.seconds_per_byte)}/s" if model.seconds_per_byte else "a speed too high to be measured"
    rounds = 2 * (workers - 1)
    return (
        f"Each step exchanges gradients of {gradients}. A ring of {workers} sends {rounds / workers:.2g} times that over each "
        f"link, here at {speed}, in {rounds} rounds of {1e6 * model.latency:,.0f} µs."
    )


def shared_cores(first: "Measured", last: "Measured", cores: float) -> str:
    """What it means that the workers of one machine share its cores; empty if each size brought cores of its own."""
    threads = [one.workers * max(1.0, one.cores) for one in (first, last)]
    own = "The two columns of theory hold for workers that bring cores of their own"
    if threads[1] > cores:
        return f"{count(last.workers, 'worker')} share {count(cores, 'core')} here. {own}."
    if first is not last and threads[0] == threads[1]:
        return (
            f"{count(first.workers, 'worker')} with {count(first.cores, 'core')} or {last.workers} with {last.cores:g} each: "
            f"the same {count(threads[0], 'core')} at all sizes, so more workers can only use them better or worse. {own}; "
            f"--cpus-per-worker {min(last.cores, first.cores):g} gives each worker as many at every size."
        )
    return ""


def simulation_text(model: Model, workers: Sequence[int], global_batch_size: int) -> str:
    """A line for each simulated number of workers, and on what assumption."""
    lines = [["simulated", "speed-up", "efficiency", "ms a step", ""]]
    for n in workers:
        few = not model.weak and n > global_batch_size
        remark = f"more workers than the {global_batch_size:,} samples of a batch" if few else ""
        gain = model.speedup(n)
        lines.append([f"{n:,}", f"{gain:,.3f}", f"{gain / n:.1%}", f"{1000 * model.seconds(n):,.2f}", remark])
    return align(lines)


def assumption(model: Model, most: int) -> str:
    """On what a simulation of up to `most` workers rests."""
    told = "Simulated, not run: every worker has the cores of the first size, and a link as fast as measured here."
    rounds = 2 * (most - 1)
    share = rounds * model.latency / model.seconds(most)
    if share > 0.5:
        told += (
            f" {share:.0%} of the step of {most:,} workers is the {rounds:,} rounds of the ring: where there are so many, "
            "libraries exchange over trees."
        )
    return told


def save_picture(sizes: "Sequence[Measured]", model: Model, simulated: Sequence[int], title: str, path: Path) -> Path:
    """Speed-up, measured and predicted, beside what a step consists of at each size, into the PNG `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    left, right = figure.subplots(1, 2)
    draw_speedup(left, sizes, model, simulated)
    draw_parts(right, sizes)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("workers")
    figure.savefig(path, dpi=120)
    return path


def draw_speedup(axes: "Axes", sizes: "Sequence[Measured]", model: Model, simulated: Sequence[int]) -> None:
    """Speed-up over the smallest size; what was not run is hollow and dashed."""
    first, workers = sizes[0], [one.workers for one in sizes]
    everything = sorted({*workers, *simulated})
    axes.plot(everything, [n / first.workers for n in everything], color=IDEAL, linestyle=":", label="ideal")
    hollow: dict[str, Any] = {"linestyle": "--", "marker": "o", "markerfacecolor": "white"}
    what = "simulated" if simulated else "predicted"
    for each, name, color in ((model.amdahl(), "Amdahl", AMDAHL), (model, "Amdahl and ring", PREDICTED)):
        gains = [gain_by(each, n, first.workers) for n in everything]
        axes.plot(everything, gains, color=color, label=f"{what}: {name}", **hollow)
    axes.plot(workers, [speedup_of(one, first) for one in sizes], color=MEASURED, marker="o", label="measured")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.3g}" if value < 1 else f"{value:,.0f}")
    axes.set_ylabel(f"times the samples/s of {count(first.workers, 'worker')}")
    axes.legend(frameon=False)


def draw_parts(axes: "Axes", sizes: "Sequence[Measured]") -> None:
    """The parts of a step as stacked bars, and the step of the training as a mark across."""
    labels, bottom = [str(one.workers) for one in sizes], [0.0] * len(sizes)
    for name, color in zip(NAMES, COLORS, strict=True):
        heights = [1000 * getattr(one.parts, name) for one in sizes]
        axes.bar(labels, heights, bottom=bottom, color=color, label=name, width=0.6)
        bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
    steps = [1000 * one.step for one in sizes]
    places = range(len(sizes))
    axes.hlines(
        steps, [x - 0.38 for x in places], [x + 0.38 for x in places], color="black", label="step of the training"
    )
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set_ylim(0, 1.3 * max(bottom + steps))  # room for the legend
    axes.set_ylabel("ms a step, part after part")
    axes.legend(frameon=False, ncols=3, loc="upper center")
