"""A trace of some steps, by torch's profiler, of every worker."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile

from onehour.config import profiled_steps
from onehour.training.checkpoint import read_facts

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own words about its beginning and its end
NUM_OPERATIONS = 10


@contextmanager
def profiled(steps: str | None, start: Path | None, folder: Path | None, rank: int) -> Iterator[None]:
    """Within it, those of a training's steps that `steps` names, such as 10:20, are traced; `start` is its checkpoint.

    The trace is rank_0.json.gz for rank 0 in the `folder` that rank 0 has, for chrome://tracing or ui.perfetto.dev; rank 0
    also writes the operations that took longest into operations.json.
    """
    done = read_facts(start)["step"] if start else 0
    first, last = profiled_steps(steps) if steps else (0, 0)
    if done >= last:
        yield
        return
    trace = Trace(max(first, done + 1), last, done, folder, rank)
    try:
        yield
    finally:
        trace.close()


class Trace:
    """The steps from `first` to `last`, after `done` ones; the loop need not know, as torch tells of every step.

    It begins with the first forward of the first step and ends with the optimizer of the last. What was due before, such
    as an evaluation, is not in it; what is due between two of the steps is.
    """

    def __init__(self, first: int, last: int, done: int, folder: Path | None, rank: int) -> None:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self.profiler, self.running, self.depth = profile(activities=activities), False, 0
        self.first, self.last, self.done = first, last, done
        self.folder, self.rank = folder, rank
        self.hooks = [
            register_optimizer_step_pre_hook(self.before_step),
            register_optimizer_step_post_hook(self.after_step),
        ]
        self.expect()

    def expect(self) -> None:
        """If the first step is next, begin with its forward. Until then no hook makes modules slower, nor afterwards."""
        if self.done + 1 == self.first:
            self.hooks.append(register_module_forward_pre_hook(self.before_forward))

    def before_forward(self, module: nn.Module, _: Any) -> None:
        """Begin, unless it is an evaluation, or one of the backwards that let DistributedDataParallel sort its buckets."""
        if module.training and torch.is_grad_enabled():
            self.hooks.pop().remove()
            self.running = True
            self.profiler.start()

    def before_step(self, *_: Any) -> None:
        """An optimizer begins; it may be inside another one, as Muon's AdamW is."""
        self.depth += 1

    def after_step(self, *_: Any) -> None:
        """A step is done when the outer optimizer has ended."""
        self.depth -= 1
        if self.depth:
            return
        self.done += 1
        if self.done == self.last:
            self.running = False
            self.profiler.stop()
            write(self.profiler, self.folder, self.rank)
        self.expect()

    def close(self) -> None:
        """End without a trace, if the training has ended in its midst."""
        for hook in self.hooks:
            hook.remove()
        if self.running:
            self.profiler.stop()


def write(profiler: profile, folder: Path | None, rank: int) -> None:
    """Write the trace, and on rank 0 the operations that took longest by themselves, in seconds; all ranks come here."""
    known = [folder]
    if dist.is_initialized():
        dist.broadcast_object_list(known, src=0)
    folder = known[0]
    assert folder
    folder.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(folder / f"rank_{rank}.json.gz"))
    if rank == 0:
        device = "device" if torch.cuda.is_available() else "cpu"
        found = [(o.key, o.count, getattr(o, f"self_{device}_time_total") / 1e6) for o in profiler.key_averages()]
        longest = sorted(found, key=lambda operation: operation[2], reverse=True)[:NUM_OPERATIONS]
        total = sum(seconds for _, _, seconds in found)
        rows = [{"name": name, "calls": n, "seconds": s, "share": s / total} for name, n, s in longest]
        (folder / "operations.json").write_text(json.dumps(rows, indent=2))
