"""What depends on the clock or on a wish from outside, which every worker must do at the same step."""

import time
from collections.abc import Callable

import torch

from onehour.training.device import Worker
from onehour.training.parallel import max_over_workers

ASK_SECONDS = 1.0


class Clock:
    """About once a second, all workers agree on whether to stop and whether a checkpoint is due.

    To agree takes an all-reduce. So that it costs nothing beside the steps, it is done every so many steps as took
    about a second the last time; that number is the slowest worker's, and so the same for all.
    """

    def __init__(self, stop: Callable[[], bool], save_seconds: float | None, step: int, worker: Worker) -> None:
        self.stop = stop
        self.save_seconds = save_seconds
        self.worker = worker
        self.asked_at, self.ask_at = step, step + 1
        self.asked = self.saved = time.perf_counter()

    def ask(self, step: int) -> tuple[bool, bool]:
        """Whether to stop after `step`, and whether a checkpoint is due by the clock."""
        if step < self.ask_at:
            return False, False
        now = time.perf_counter()
        overdue = self.save_seconds is not None and now - self.saved >= self.save_seconds
        step_seconds = (now - self.asked) / (step - self.asked_at)
        values = torch.tensor([self.stop(), overdue, step_seconds], dtype=torch.float32, device=self.worker.device)
        stopping, saving, slowest = max_over_workers(values, self.worker).tolist()
        self.asked, self.asked_at = now, step
        self.ask_at = step + max(1, int(ASK_SECONDS / slowest))
        if saving:
            self.saved = now
        return bool(stopping), bool(saving)
