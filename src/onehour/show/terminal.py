"""What a training says in the terminal: its plan, one live line, a line for each evaluation."""

import sys
from pathlib import Path
from typing import Any

from onehour.config import TrainConfig
from onehour.recipe import Recipe
from onehour.training.plan import Plan

MB = 1e6


def plan_text(plan: Plan, recipe: Recipe, config: TrainConfig, place: str, folder: Path) -> str:
    """The plan of a run as aligned lines."""
    unit, size = recipe.unit()
    units = f" of {size:,} {unit}" if size > 1 else ""
    memory = plan.memory
    lines = {
        "model": f"{memory.num_parameters:,} parameters",
        "data": f"{plan.about}: {plan.num_train:,} samples{units} to train on, {plan.num_held_out:,} held out",
        "batch": f"{config.global_batch_size:,} samples = {count(plan.workers, 'worker')} x {plan.micro_batch_size:,}"
        f" x {plan.accumulation} accumulated",
        "steps": f"{plan.num_steps:,}, which is {plan.num_epochs:.3g} epochs",
        "memory": f"about {memory.total / MB:,.0f} MB a worker: weights {memory.weights / MB:,.0f}, gradients "
        f"{memory.gradients / MB:,.0f}, {config.optimizer} {memory.optimizer / MB:,.0f}, activations "
        f"{memory.activations / MB:,.0f}",
        "workers": place,
        "run": str(folder),
    }
    return "\n".join(f"{name:<9}{text}" for name, text in lines.items())


def count(number: int, noun: str) -> str:
    """1 worker, 2 workers."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Progress:
    """A live line that is drawn over and over; evaluations and warnings leave a line behind.

    Where the output is no terminal there is no live line, only what stays.
    """

    def __init__(self, recipe: Recipe, config: TrainConfig) -> None:
        self.unit, self.size = recipe.unit()
        self.batch = config.global_batch_size
        self.live = sys.stdout.isatty()

    def show(self, row: dict[str, Any]) -> None:
        """Show a row of metrics.jsonl, or {"warning": ...}."""
        if "warning" in row:
            self.leave(row["warning"])
        elif "held_out_loss" in row:
            held_out = {n.removeprefix("held_out_"): v for n, v in row.items() if n.startswith("held_out_")}
            self.leave(f"{self.line(row)}  held out: " + "  ".join(f"{n.replace('_', ' ')} {v:.4f}" for n, v in held_out.items()))
        elif self.live:
            left = (row["num_steps"] - row["step"]) * self.batch / row["samples_per_second"]
            line = f"{self.line(row)}  lr {row['learning_rate']:.1e}  {duration(left)} left"
            print(f"\r{line}\033[K", end="", flush=True)

    def line(self, row: dict[str, Any]) -> str:
        """Step, loss and speed."""
        speed = row["samples_per_second"] * self.size
        return f"step {row['step']:,}/{row['num_steps']:,}  loss {row['loss']:.4f}  {speed:,.0f} {self.unit}/s"

    def leave(self, line: str) -> None:
        """Print a line that stays, in place of the live one."""
        print(f"\r{line}\033[K" if self.live else line, flush=True)


def duration(seconds: float) -> str:
    """42 s, or 1:23 min, or 2:05 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 100 else f"{minutes // 60}:{minutes % 60:02} h"
