"""Learning-rate schedules, drawn from the function that the training asks."""

from dataclasses import replace
from typing import Literal

from IPython.display import SVG

from onehour.config import TrainConfig
from onehour.course.pictures.style import as_svg, new_figure
from onehour.course.words import say
from onehour.training.optim import learning_rate_at


def draw(config: TrainConfig, num_steps: int) -> SVG:
    """The learning rate of each step from 0 to `num_steps` - 1 under each schedule, all else as in `config`."""
    figure = new_figure(8, 3)
    axes = figure.subplots()
    schedules: list[tuple[Literal["constant", "linear", "cosine"], str]] = [
        ("constant", say("constant", "constant（恒定）")),
        ("linear", say("linear", "linear（线性）")),
        ("cosine", say("cosine", "cosine（余弦）")),
    ]
    for schedule, label in schedules:
        changed = replace(config, schedule=schedule)
        axes.plot([learning_rate_at(step, num_steps, changed) for step in range(num_steps)], label=label)
    axes.axvspan(0, config.warmup_steps, alpha=0.1, linewidth=0)
    axes.text(config.warmup_steps / 2, 0, say("warm-up", "预热"), ha="center", va="bottom")
    axes.set_xlabel(say("step", "优化步"))
    axes.set_ylabel(say("learning rate", "学习率"))
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.95))
    return as_svg(figure)
