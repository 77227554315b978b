"""What a training says in the terminal: its plan, one live line, a line for each evaluation."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow import ArrowException

from onehour.config import TrainConfig
from onehour.recipe import Recipe
from onehour.show.table import words
from onehour.training.plan import Plan
from onehour.training.run import Run
from onehour.training.storage import copied

QUIET_SECONDS = 10
COPYING_SECONDS = 0.5


def plan_text(plan: Plan, recipe: Recipe, config: TrainConfig, place: str, folder: Path) -> str:
    """The plan of a run as aligned lines."""
    unit, size = recipe.unit()
    units = f" of {size:,} {unit}" if size > 1 else ""
    memory = plan.memory
    lines = {
        "model": f"{memory.num_parameters:,} parameters"
        + (
            f", {memory.num_trained:,} of them trained"
            if memory.num_trained not in (None, memory.num_parameters)
            else ""
        ),
        "data": f"{plan.about}: {plan.num_train:,} samples{units} to train on, {plan.num_held_out:,} held out",
        "batch": f"{config.global_batch_size:,} samples = {count(plan.workers, 'worker')} x {plan.micro_batch_size:,}"
        f" x {plan.accumulation} accumulated",
        "steps": f"{plan.num_steps:,}, which is {count(plan.num_epochs, 'epoch')}"
        + (f"; {warm_up(config.warmup_steps, plan.num_steps)}" if config.warmup_steps else ""),
        "memory": f"about {in_bytes(memory.total)} a worker, beside some 300 MB for Python and torch: weights "
        f"{in_bytes(memory.weights)}, gradients {in_bytes(memory.gradients)}, {config.optimizer} "
        f"{in_bytes(memory.optimizer)}, activations {in_bytes(memory.activations)}",
        "workers": place,
        "run": str(folder),
    }
    return "\n".join(f"{name:<11}{text}" for name, text in lines.items())


def warm_up(warmup_steps: int, num_steps: int) -> str:
    """How many of the steps warm up, in words; all of them are too many."""
    if warmup_steps < num_steps:
        return f"{warmup_steps:,} of them warm up"
    return f"all of them warm up, and learn little: try --warmup-steps {max(1, num_steps // 10):,}"


def count(number: float, noun: str) -> str:
    """1 worker, 2 workers, 0.25 epochs."""
    return f"{number:,.3g} {noun}{'' if number == 1 else 's'}" if number < 1000 else f"{number:,.0f} {noun}s"


def in_bytes(number: float) -> str:
    """A number of bytes in the unit that suits it, to two or three digits: 12 B, 3.0 kB, 198 MB, 25 GB."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:,.{number < 9.95 * size:d}f} {unit}"
    return f"{number:.0f} B"


def draw(line: str) -> None:
    """Draw a live line, which the next one is drawn over; where the output is no terminal, nothing."""
    if sys.stdout.isatty():
        # Cut, as a line that wraps could not be drawn over; and from the left edge, so that what comes next,
        # the sentence of an error say, does not stand behind it.
        print(f"\r{line[: shutil.get_terminal_size().columns - 1]}\033[K\r", end="", flush=True)


@contextmanager
def show_copying(run: Run, step: int, uri: str) -> Iterator[None]:
    """Meanwhile a live line says how much of the run's checkpoint after `step` steps has come to the storage."""
    over = threading.Event()

    def watch() -> None:
        with suppress(OSError, ArrowException):  # whoever copies meets it, too, and tells
            while not over.wait(COPYING_SECONDS):
                there, here = copied(run.checkpoint_at(step), run, uri)
                if not over.is_set():
                    draw(f"copying to {uri}: {in_bytes(there)}{f' of {in_bytes(here)}' if here else ''}")

    thread = threading.Thread(target=watch, daemon=True)
    if sys.stdout.isatty():
        thread.start()
    try:
        yield
    finally:
        over.set()
        draw("")


class Progress:
    """A live line that is drawn over and over; evaluations and warnings leave a line behind.

    Where the output is no terminal there is no live line, but a line that stays every ten seconds.
    """

    def __init__(self, recipe: Recipe, config: TrainConfig) -> None:
        self.unit, self.size = recipe.unit()
        self.batch = config.global_batch_size
        self.live = sys.stdout.isatty()
        self.told = time.monotonic()

    def show(self, row: dict[str, Any]) -> None:
        """Show a row of metrics.jsonl, or {"warning": ...}."""
        if "warning" in row:
            self.leave(row["warning"])
        if "dashboard" in row:
            self.leave(f"dashboard  {row['dashboard']}")
        if "step" not in row:
            return
        if "held_out_loss" in row:
            held_out = (f"{words(name)} {value:.4f}" for name, value in row.items() if name.startswith("held_out_"))
            self.leave(f"{self.line(row)}  held out: {'  '.join(held_out)}")
        elif self.live:
            left = (row["num_steps"] - row["step"]) * self.batch / row["samples_per_second"]
            draw(f"{self.line(row)}  lr {row['learning_rate']:.1e}  {duration(left)} left")
        elif time.monotonic() - self.told > QUIET_SECONDS:
            self.leave(self.line(row))

    def line(self, row: dict[str, Any]) -> str:
        """Step, loss and speed."""
        done = f"{row['step']:,}".rjust(len(f"{row['num_steps']:,}"))
        if "loss" not in row:  # before the first step
            return f"step {done}/{row['num_steps']:,}"
        speed = row["samples_per_second"] * self.size
        return f"step {done}/{row['num_steps']:,}  loss {row['loss']:.4f}  {speed:,.0f} {self.unit}/s"

    def leave(self, line: str) -> None:
        """Print a line that stays, in place of the live one."""
        self.told = time.monotonic()
        print(f"\r{line}\033[K" if self.live else line, flush=True)


def duration(seconds: float) -> str:
    """42 s, or 1:23 min, or 2:05 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 100 else f"{minutes // 60}:{minutes % 60:02} h"
