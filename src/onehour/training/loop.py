"""The training loop. There is no other one in onehour.

`train` is a generator: it yields a report whenever there is something to tell, and goes on when it is asked for the
next one. A notebook plots the reports, the command line prints them, a Ray worker hands them to Ray, a test collects
them in a list; the loop does not know.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onehour.config import TrainConfig
from onehour.data.loader import MicroBatches, num_micro_batches
from onehour.data.prepare import prepare
from onehour.errors import InputError, TrainingError
from onehour.recipe import Batch, Recipe
from onehour.training.checkpoint import State, facts_of, restore
from onehour.training.device import Worker, autocast, peak_memory, random_state, this_worker, to_device
from onehour.training.early_stopping import should_stop
from onehour.training.evaluate import evaluate
from onehour.training.optim import build_optimizer, learning_rate_at, set_learning_rate
from onehour.training.parallel import gather_objects, mean_over_workers, parallelize, without_all_reduce


@dataclass(frozen=True)
class Report:
    """What the loop tells about the state after `step` optimizer steps. All numbers are global, none is one worker's."""

    step: int
    num_steps: int
    samples: int
    """Samples trained so far."""
    metrics: dict[str, float]
    """loss and gradient_norm (means since the last report), learning_rate, samples_per_second; held_out_... if evaluated"""
    checkpoint: State | None = None
    """The state to save, when a checkpoint is due. Save it before asking for the next report."""


def train(recipe: Recipe, config: TrainConfig, start: Path | None = None) -> Iterator[Report]:
    """Train `recipe` as `config` says, from its beginning or from the checkpoint in the folder `start`.

    The same call runs in a notebook, under torchrun and in a Ray worker. For a given config the reports are the same
    at every number of workers: in float32 up to the order of additions.

    Raises:
        InputError: config, data, device or checkpoint do not fit; before the first step.
        TrainingError: the loss or the gradient is no longer finite; names the step.
    """
    worker = this_worker(config)
    accumulated = num_micro_batches(config, worker.world_size)
    data = prepare(recipe)
    num_steps = count_steps(config, len(data.train))

    torch.manual_seed(config.seed)
    model = recipe.build_model().to(worker.device)
    optimizer = build_optimizer(model, config)
    torch.manual_seed(config.seed + worker.rank)  # what is drawn from here on (dropout) differs between workers
    first, held_out_losses = restore(start, model, optimizer, recipe, config, data, worker)
    wrapped = parallelize(model, config.strategy, worker)
    batches = MicroBatches(
        recipe, data.train, config.seed, config.global_batch_size, worker.rank, worker.world_size, accumulated
    ).steps(first, num_steps, config.num_loader_processes, pin_memory=worker.device.type == "cuda")

    recent: list[Tensor] = []
    began = time.perf_counter()
    for step, micro_batches in enumerate(batches, start=first + 1):
        learning_rate = learning_rate_at(step - 1, num_steps, config)
        set_learning_rate(optimizer, learning_rate)
        recent.append(one_step(recipe, wrapped, optimizer, micro_batches, config, worker))

        evaluating = is_due(step, config.evaluate_every, num_steps)
        saving = is_due(step, config.checkpoint_every, num_steps)
        if not (evaluating or saving or is_due(step, config.log_every, num_steps)):
            continue
        metrics = summarize(recent, step, worker) | {"learning_rate": learning_rate}
        metrics["samples_per_second"] = len(recent) * config.global_batch_size / (time.perf_counter() - began)
        if evaluating:
            held_out = evaluate(recipe, model, data, config, worker)
            held_out_losses.append(held_out["loss"])
            metrics |= {f"held_out_{name}": value for name, value in held_out.items()}
            metrics["peak_memory"] = peak_memory(worker.device)
        stopping = evaluating and should_stop(held_out_losses, config.patience)
        checkpoint = None
        if saving or stopping:
            check_finite(recipe, model, micro_batches[-1], config, step, worker)
            random = gather_objects(random_state(worker.device), worker)
            checkpoint = State(model, optimizer, random, facts_of(step, held_out_losses, recipe, config, data, worker))
        yield Report(step, num_steps, step * config.global_batch_size, metrics, checkpoint)
        if stopping:
            return
        recent.clear()
        began = time.perf_counter()  # evaluating, saving and telling are not training


def one_step(
    recipe: Recipe, model: nn.Module, optimizer: Optimizer, micro_batches: Sequence[Batch], config: TrainConfig,
    worker: Worker,
) -> Tensor:  # fmt: skip
    """One optimizer step over this worker's share of the global batch.

    Gradients of the micro-batches add up; the last backward averages them over the workers. As every micro-batch has
    the same number of samples, the mean of their means is the mean over the global batch.

    Returns this worker's mean loss and the norm of the whole gradient, shape (2,).
    """
    optimizer.zero_grad()
    mean_loss = torch.zeros((), device=worker.device)
    for i, batch in enumerate(micro_batches):
        with without_all_reduce(model, unless=i == len(micro_batches) - 1):
            with autocast(worker.device, config.precision):
                loss = sample_losses(recipe, model, to_device(batch, worker.device)).mean() / len(micro_batches)
            loss.backward()
        mean_loss += loss.detach()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf)
    optimizer.step()
    return torch.stack([mean_loss, norm])


def sample_losses(recipe: Recipe, model: nn.Module, batch: Batch) -> Tensor:
    """The recipe's loss of each sample, shape (B,), checked: a loss that is already a mean hides its samples."""
    losses = recipe.loss(model, batch)
    num_samples = len(next(iter(batch.values())))
    if losses.shape != (num_samples,):
        raise InputError(
            f"The loss of the recipe {recipe.name()} has shape {tuple(losses.shape)} for {num_samples} samples; "
            f"it must be one loss per sample, shape ({num_samples},), such as cross_entropy(..., reduction='none')."
        )
    return losses


def summarize(recent: list[Tensor], step: int, worker: Worker) -> dict[str, float]:
    """Mean loss and gradient norm over the steps since the last report, and over all workers.

    `recent` has (loss, norm) for each of these steps; `step` is the number of the last one, from 1.
    """
    values = mean_over_workers(torch.stack(recent), worker)
    finite = values.isfinite().all(dim=1).tolist()
    if not all(finite):
        bad = step - len(recent) + 1 + finite.index(False)
        loss, norm = values[finite.index(False)].tolist()
        raise TrainingError(
            f"The training diverged at step {bad}: loss {loss:g}, gradient norm {norm:g}; nothing from that step on was "
            "saved; try a lower --learning-rate, more --warmup-steps or a smaller --clip."
        )
    loss, norm = values.mean(dim=0).tolist()
    return {"loss": loss, "gradient_norm": norm}


@torch.no_grad()
def check_finite(
    recipe: Recipe, model: nn.Module, batch: Batch, config: TrainConfig, step: int, worker: Worker
) -> None:
    """Refuse to save a model that has no finite loss any more: the loss of the next step would tell too late."""
    with autocast(worker.device, config.precision):
        loss = sample_losses(recipe, model, to_device(batch, worker.device)).mean()
    if not mean_over_workers(loss, worker).isfinite():
        raise TrainingError(
            f"The training diverged at step {step}, whose update left no finite loss; nothing from that step on was saved; "
            "try a lower --learning-rate, more --warmup-steps or a smaller --clip."
        )


def count_steps(config: TrainConfig, num_samples: int) -> int:
    """The optimizer steps of a run. The last one of an epoch may reach into the next epoch: every batch is full."""
    return config.num_steps or math.ceil(config.num_epochs * num_samples / config.global_batch_size)


def is_due(step: int, every: int | None, num_steps: int) -> bool:
    """Whether something that happens every so many steps, and at the last one, happens after step `step`, from 1."""
    return step == num_steps or (every is not None and step % every == 0)
