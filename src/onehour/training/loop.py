"""The training loop. There is no other one in onehour.

`train` is a generator: it yields a report whenever there is something to tell, and goes on when it is asked for the
next one. A notebook plots the reports, the command line prints them, a Ray worker hands them to Ray, a test collects
them in a list; the loop does not know.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from onehour.config import TrainConfig, seconds
from onehour.data.loader import IDS, MicroBatches, num_micro_batches
from onehour.data.prepare import Data, prepare
from onehour.errors import DivergedError, InputError
from onehour.recipe import Batch, Recipe
from onehour.training.checkpoint import State, facts_of, read_facts, restore, state_of
from onehour.training.clock import Clock
from onehour.training.device import (
    Worker,
    autocast,
    peak_memory,
    random_state,
    seed_random,
    this_worker,
    to_device,
)
from onehour.training.early_stopping import should_stop
from onehour.training.evaluate import evaluate
from onehour.training.layers import set_up_layers
from onehour.training.optim import build_optimizer, learning_rate_at, set_learning_rate
from onehour.training.parallel import (
    gather_objects,
    gather_tensors,
    mean_over_workers,
    parallelize,
    whole,
    without_all_reduce,
)
from onehour.training.record import Record
from onehour.training.reproducible import add_in_pairs, mean_in_pairs


@dataclass(frozen=True)
class Report:
    """What the loop tells about the state after `step` optimizer steps. All numbers are global, none is one worker's."""

    step: int
    num_steps: int
    samples: int
    """Samples trained so far."""
    metrics: dict[str, Any]
    """loss and gradient_norm (means since the last report), learning_rate, samples_per_second; held_out_... if evaluated,
    and tables of the evaluation. Before the first step (config.evaluate_first) these alone."""
    checkpoint: State | None = None
    """The state to save, when a checkpoint is due. Save or copy it before asking for the next report."""
    interrupted: bool = False
    """Whether the training ends here because it was asked to stop."""
    warning: str | None = None
    """What went wrong beside the training, which goes on."""
    trained: list[dict[str, Any]] = field(default_factory=list)
    """With config.audit: which samples were trained since the last report, a row for each step."""


def train(
    recipe: Recipe, config: TrainConfig, start: Path | None = None, stop: Callable[[], bool] = lambda: False,
    data: Data | None = None,
) -> Iterator[Report]:  # fmt: skip
    """Train `recipe` as `config` says, from its beginning or from the checkpoint in the folder `start`.

    The same call runs in a notebook, under torchrun and in a Ray worker. For a given config the reports are the same
    at every number of workers: in float32 up to the order of additions.

    `stop` is asked about once a second on every worker. When it says yes on one, all of them finish the step and yield
    a last report with a checkpoint. Without `data` they are prepared from what this machine sees.

    Raises:
        InputError: config, data, device or checkpoint do not fit; before the first step.
        DivergedError: the loss or the gradient is no longer finite; names the step.
    """
    worker = this_worker(config)
    accumulated = num_micro_batches(config, worker.world_size)
    data = data or prepare(recipe)
    num_steps = count_steps(config, len(data.train))

    torch.manual_seed(config.seed)
    model = recipe.begin(data.folder).to(worker.device)
    set_up_layers(model, config, worker.device)
    wrapped = parallelize(model, config.strategy, worker, config.precision, config.offload)
    if config.reproducible:
        add_in_pairs(wrapped, accumulated, worker)
    optimizer = build_optimizer(model, config)
    torch.manual_seed(config.seed + worker.rank)  # what is drawn from here on (dropout) differs between workers
    first, held_out_losses = restore(start, model, optimizer, recipe, config, data, worker)
    order = MicroBatches(
        recipe, data.train, config.seed, config.global_batch_size, worker.rank, worker.world_size, accumulated,
        with_ids=config.audit or config.audit_ids,
    )  # fmt: skip
    if not config.reproducible:  # which adds up in an order that does not depend on buckets
        settle_buckets(recipe, wrapped, order[first * accumulated], worker)
    batches = order.steps(first, num_steps, config.num_loader_processes, pin_memory=worker.device.type == "cuda")
    save_steps, save_seconds = checkpoint_times(config)
    record = Record(config, read_facts(start) if start else None, len(data.train), worker)

    if first == 0 and config.evaluate_first:
        before = evaluate(recipe, model, data, config, worker)
        held_out_losses.append(before["loss"])
        yield Report(0, num_steps, 0, held_out_metrics(before))

    recent: list[Tensor] = []
    clock = Clock(stop, save_seconds, first, worker)
    began = time.perf_counter()
    for step, micro_batches in enumerate(batches, start=first + 1):
        learning_rate = learning_rate_at(step - 1, num_steps, config)
        set_learning_rate(optimizer, learning_rate)
        record.note(step, micro_batches)
        recent.append(one_step(recipe, wrapped, optimizer, micro_batches, config, worker, step))

        interrupted, overdue = clock.ask(step)
        evaluating = is_due(step, config.evaluate_every, num_steps)
        saving = interrupted or overdue or is_due(step, save_steps, num_steps)
        if not (evaluating or saving or is_due(step, config.log_every, num_steps)):
            continue
        metrics = summarize(recent, step, order, worker) | {"learning_rate": learning_rate}
        metrics["samples_per_second"] = len(recent) * config.global_batch_size / (time.perf_counter() - began)
        if evaluating:
            held_out = evaluate(recipe, model, data, config, worker)
            held_out_losses.append(held_out["loss"])
            metrics |= held_out_metrics(held_out)
            metrics["peak_memory"] = peak_memory(worker.device)
        stopping = evaluating and should_stop(held_out_losses, config.patience)
        checkpoint = None
        if saving or stopping:
            check_finite(recipe, model, micro_batches[-1], config, step, order, worker)
            random = gather_objects(random_state(worker.device), worker)
            facts = facts_of(step, held_out_losses, recipe, config, data, worker)
            facts |= {"attempt": record.attempt, "held_out_loss": metrics.get("held_out_loss")}
            checkpoint = state_of(model, optimizer, random, facts, worker.saving)
        samples = step * config.global_batch_size
        interrupted = interrupted and step < num_steps
        yield Report(step, num_steps, samples, metrics, checkpoint, interrupted, trained=record.gather())
        if stopping or interrupted:
            return
        recent.clear()
        began = time.perf_counter()  # evaluating, saving and telling are not training


def held_out_metrics(evaluated: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation as a report has them: numbers as held_out_..., tables under their own names."""
    return {name if isinstance(value, list) else f"held_out_{name}": value for name, value in evaluated.items()}


def settle_buckets(recipe: Recipe, model: nn.Module, batch: Batch, worker: Worker) -> None:
    """Let DistributedDataParallel sort its buckets before the first step, by one backward that changes nothing.

    It sorts them after its first backward, and in which order gradients of three workers or more are added up depends
    on the buckets: a resumed training would sort them once more, and differ in the last bits. In evaluation mode no
    random numbers are drawn.
    """
    if isinstance(model, DistributedDataParallel):
        batch.pop(IDS, None)
        model.eval()
        sample_losses(recipe, model, to_device(batch, worker.device)).mean().backward()
        model.train()
        model.zero_grad()


def one_step(
    recipe: Recipe, model: nn.Module, optimizer: Optimizer, micro_batches: Sequence[Batch], config: TrainConfig,
    worker: Worker, step: int,
) -> Tensor:  # fmt: skip
    """One optimizer step over this worker's share of the global batch.

    Gradients of the micro-batches add up; the last backward averages them over the workers. As every micro-batch has
    the same number of samples, the mean of their means is the mean over the global batch. With config.reproducible
    backward adds up over the workers, too (`add_in_pairs`), so that losses are divided by all micro-batches; and what
    the model draws (dropout) follows from which of them it is, not from who computes it.

    Returns this worker's mean loss and the norm of the whole gradient, shape (2,).
    """
    optimizer.zero_grad()
    accumulated = len(micro_batches)
    num_parts = accumulated * worker.world_size if config.reproducible else accumulated
    losses = []
    for i, batch in enumerate(micro_batches):
        if config.reproducible:
            seed_random(config.seed + step * num_parts + worker.rank * accumulated + i, worker.device)
        with without_all_reduce(model, unless=i == accumulated - 1):
            with autocast(worker.device, config.precision):
                loss = sample_losses(recipe, model, to_device(batch, worker.device)).mean()
            (loss / num_parts).backward()
        losses.append(loss.detach())
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf)
    optimizer.step()
    return torch.stack([mean_in_pairs(losses), whole(norm)])


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


def summarize(recent: list[Tensor], step: int, order: MicroBatches, worker: Worker) -> dict[str, float]:
    """Mean loss and gradient norm over the steps since the last report, and over all workers.

    `recent` has (loss, norm) for each of these steps; `step` is the number of the last one, from 1.
    """
    values = mean_in_pairs(gather_tensors(torch.stack(recent), worker))
    finite = values.isfinite().all(dim=1).tolist()
    if not all(finite):
        loss, norm = values[finite.index(False)].tolist()
        raise diverged(step - len(recent) + 1 + finite.index(False), f"loss {loss:g}, gradient norm {norm:g}", order)
    loss, norm = values.mean(dim=0).tolist()
    return {"loss": loss, "gradient_norm": norm}


@torch.no_grad()
def check_finite(
    recipe: Recipe, model: nn.Module, batch: Batch, config: TrainConfig, step: int, order: MicroBatches, worker: Worker
) -> None:
    """Refuse to save a model that has no finite loss any more: the loss of the next step would tell too late."""
    with autocast(worker.device, config.precision):
        loss = sample_losses(recipe, model, to_device(batch, worker.device)).mean()
    if not mean_over_workers(loss, worker).isfinite():
        raise diverged(step, "its update left no finite loss", order)


def diverged(step: int, what: str, order: MicroBatches) -> DivergedError:
    """The exception that ends a training at a step, from 1."""
    return DivergedError(
        f"The training diverged at step {step}: {what}; nothing from that step on was saved; try a lower --learning-rate, "
        "more --warmup-steps or a smaller --clip.",
        step,
        order.sample_ids(step - 1).tolist(),
    )


def count_steps(config: TrainConfig, num_samples: int) -> int:
    """The optimizer steps of a run. The last one of an epoch may reach into the next epoch: every batch is full."""
    return config.num_steps or math.ceil(config.num_epochs * num_samples / config.global_batch_size)


def checkpoint_times(config: TrainConfig) -> tuple[int | None, float | None]:
    """Steps and seconds from one checkpoint to the next; one of them is None, or both are."""
    every = config.checkpoint_every
    return (None, seconds(every)) if isinstance(every, str) else (every, None)


def is_due(step: int, every: int | None, num_steps: int) -> bool:
    """Whether something that happens every so many steps, and at the last one, happens after step `step`, from 1."""
    return step == num_steps or (every is not None and step % every == 0)
