"""A trace of some steps, by torch's profiler, of every worker."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile

from onehour.config import profiled_steps

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own words about its beginning and its end
NUM_OPERATIONS = 10


@contextmanager
def profiled(steps: str | None, folder: Path | None, rank: int) -> Iterator[None]:
    """Within it, the optimizer's steps are counted from 1, and those that `steps` names, such as 10:20, are traced.

    The trace is rank_0.json.gz for rank 0 in the `folder` that rank 0 has, for chrome://tracing or ui.perfetto.dev; rank 0
    also writes the operations that took longest into operations.json.
    A step ends with the optimizer's, so the loop need not know.
    """
    if steps is None:
        yield
        return
    first, last = profiled_steps(steps)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    profiler, done, depth = profile(activities=activities), 0, 0

    def before_step(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def after_step(*_: Any) -> None:
        nonlocal done, depth
        depth -= 1
        if depth:  # an optimizer inside another one, such as Muon's AdamW
            return
        done += 1
        if done == first - 1:
            profiler.start()
        if done == last:
            profiler.stop()
            write(profiler, folder, rank)

    if first == 1:
        profiler.start()
    handles = register_optimizer_step_pre_hook(before_step), register_optimizer_step_post_hook(after_step)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if first - 1 <= done < last:  # the training ended in the midst of them
            profiler.stop()


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
