"""What a step of a training consists of, measured."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from onehour.config import TrainConfig
from onehour.data.loader import MicroBatches, num_micro_batches
from onehour.data.prepare import Data
from onehour.recipe import Recipe
from onehour.training.device import Worker, autocast, synchronize, this_worker, to_device
from onehour.training.layers import set_up_layers
from onehour.training.loop import sample_losses
from onehour.training.optim import build_optimizer
from onehour.training.parallel import mean_over_workers

WARM_UP, STEPS, MESSAGES = 5, 20, 10


@dataclass(frozen=True)
class Parts:
    """Seconds of one step, one part after the other; means over the workers. In a training some of them overlap."""

    data: float
    """Until the batch is there."""
    compute: float
    """Forward and backward over the worker's share of the global batch."""
    waiting: float
    """Until the slowest worker has come as far."""
    exchange: float
    """The all-reduce of as many bytes as the gradients have."""
    message: float
    """The all-reduce of a single number, which is no part of a step: what an exchange costs, however little is sent."""
    update: float
    """Clipping and the optimizer's step, which every worker does whole."""

    def total(self) -> float:
        """Seconds of a step in which nothing overlaps."""
        return self.data + self.compute + self.waiting + self.exchange + self.update


def measure_parts(recipe: Recipe, config: TrainConfig, data: Data, num_steps: int = STEPS) -> Parts:
    """Take `num_steps` steps of a training apart: between two parts, every worker looks at the clock.

    The gradients are exchanged after the backward pass, in one piece, and not while it runs, as in a training; so the
    sum is what a step would take if nothing overlapped. Zeros of their size stand for them: each worker steps by its
    own gradients, which takes as long. The median over the steps stands for each part.
    """
    worker = this_worker(config)
    accumulated = num_micro_batches(config, worker.world_size)
    torch.manual_seed(config.seed)
    model = recipe.begin(data.folder).to(worker.device)
    set_up_layers(model, config, worker.device)
    optimizer = build_optimizer(model, config)
    order = MicroBatches(
        recipe, data.train, config.seed, config.global_batch_size, worker.rank, worker.world_size, accumulated
    )
    gradients = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad), device=worker.device)
    number = torch.zeros(1, device=worker.device)
    batches = order.steps(0, WARM_UP + num_steps, config.num_loader_processes, worker.device.type == "cuda")
    times = []
    for _ in range(WARM_UP + num_steps):
        optimizer.zero_grad()
        marks = [now(worker)]
        micro_batches = next(batches)
        marks.append(now(worker))
        for batch in micro_batches:
            with autocast(worker.device, config.precision):
                loss = sample_losses(recipe, model, to_device(batch, worker.device)).mean() / accumulated
            loss.backward()
        marks.append(now(worker))
        mean_over_workers(number, worker)  # nobody passes before all have come
        marks.append(now(worker))
        mean_over_workers(gradients, worker)
        marks.append(now(worker))
        for _ in range(MESSAGES):
            mean_over_workers(number, worker)
        marks.append(now(worker))
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip or float("inf"))
        optimizer.step()
        marks.append(now(worker))
        times.append(np.diff(marks) / [1, 1, 1, 1, MESSAGES, 1])
    medians = torch.tensor(np.median(times[WARM_UP:], axis=0), device=worker.device, dtype=torch.float32)
    return Parts(*mean_over_workers(medians, worker).tolist())


def now(worker: Worker) -> float:
    """The time in seconds when the device has done all that it was asked to."""
    synchronize(worker.device)
    return time.perf_counter()
