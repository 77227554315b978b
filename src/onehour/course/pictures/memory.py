"""What takes memory: in one training step, and on each GPU when many of them train one model."""

from collections.abc import Mapping, Sequence

from IPython.display import SVG
from matplotlib.axes import Axes

from onehour.course.pictures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, as_svg, new_figure
from onehour.course.words import say
from onehour.training.memory import Memory

COLORS = {"weights": BLUE, "gradients": ORANGE, "optimizer": GREEN, "activations": PURPLE}
# Training in float32 with AdamW: each weight has a gradient and two moments, 4 bytes each.
BYTES_PER_PARAMETER = {"weights": 4, "gradients": 4, "optimizer": 8}


def names() -> dict[str, str]:
    """What the parts are called."""
    return {
        "weights": say("weights", "权重"),
        "gradients": say("gradients", "梯度"),
        "optimizer": say("AdamW's moments", "AdamW 的矩"),
        "activations": say("activations", "激活值"),
    }


def step(memories: Mapping[int, Memory]) -> SVG:
    """A bar for each micro-batch size: the megabytes of a training step, part by part."""
    figure = new_figure(8, 0.6 * len(memories) + 1.4)
    axes = figure.subplots()
    labels = [say(f"{size} sample{'s'[: size > 1]}", f"{size} 个样本") for size in memories]
    ends = [0.0] * len(memories)
    for part, name in names().items():
        sizes = [getattr(memory, part) / 1e6 for memory in memories.values()]
        axes.barh(labels, sizes, left=ends, color=COLORS[part], label=name, height=0.6)
        ends = [end + size for end, size in zip(ends, sizes, strict=True)]
    for row, end in enumerate(ends):
        axes.text(end, row, f" {end:.0f} MB", va="center")
    axes.invert_yaxis()
    axes.set(xlabel=say("megabytes in one training step", "一次优化步所占的兆字节"), xlim=(0, 1.12 * max(ends)))
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1), ncols=4)
    return as_svg(figure)


def strategies(num_parameters: float, num_gpus: Sequence[int], gigabytes: float) -> SVG:
    """DDP beside FSDP: what each GPU holds of weights, gradients and moments, and the size of a GPU as a line."""
    figure = new_figure(8, 3.8)
    left, right = figure.subplots(1, 2, sharey=True)
    whole = {part: size * num_parameters / 1e9 for part, size in BYTES_PER_PARAMETER.items()}
    bars(left, "DistributedDataParallel", num_gpus, {part: [size] * len(num_gpus) for part, size in whole.items()})
    bars(right, "FSDP", num_gpus, {part: [size / n for n in num_gpus] for part, size in whole.items()})
    for axes in (left, right):
        axes.axhline(gigabytes, color=GREY, linestyle="--")
    size = say(f"a GPU of {gigabytes:.0f} GB", f"一块 {gigabytes:.0f} GB 的 GPU")
    right.text(len(num_gpus) - 0.6, gigabytes + 2, size, ha="right", va="bottom")
    left.set(ylabel=say("GB on each GPU", "每块 GPU 的 GB 数"), ylim=(0, 1.15 * sum(whole.values())))
    right.legend(loc="upper right")
    return as_svg(figure)


def bars(axes: Axes, title: str, num_gpus: Sequence[int], parts: Mapping[str, Sequence[float]]) -> None:
    """A stacked bar for each number of GPUs, with its total above it."""
    positions = range(len(num_gpus))
    ends = [0.0] * len(num_gpus)
    for part, sizes in parts.items():
        axes.bar(positions, sizes, bottom=ends, color=COLORS[part], label=names()[part], width=0.7)
        ends = [end + size for end, size in zip(ends, sizes, strict=True)]
    for position, end in zip(positions, ends, strict=True):
        axes.text(position, end, f"{end:.3g}", ha="center", va="bottom")
    axes.set_xticks(positions, [str(n) for n in num_gpus])
    axes.set(title=title, xlabel=say("number of GPUs", "GPU 数量"))
