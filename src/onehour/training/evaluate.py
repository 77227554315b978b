"""Exact evaluation: every held-out sample counts once, whatever the number of workers."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from onehour.config import TrainConfig
from onehour.data.loader import evaluation_batches, fixed_evaluation_batches, num_shards
from onehour.data.prepare import Data
from onehour.recipe import Recipe
from onehour.training.device import Worker, autocast, to_device
from onehour.training.parallel import gather_objects, is_sharded, of_rank_0


@torch.no_grad()
def evaluate(recipe: Recipe, model: nn.Module, data: Data, config: TrainConfig, worker: Worker) -> dict[str, Any]:
    """The recipe's metrics over all held-out samples, the same on every worker.

    Each worker counts over its own batches, all that was counted is added up, and only then divided: the mean of the
    means of unequal parts would be wrong. The model is left in training mode.
    """
    batch_size = config.micro_batch_size or max(1, config.global_batch_size // worker.world_size)
    cut = evaluation_batches
    if config.reproducible:
        batch_size, cut = config.global_batch_size // num_shards(config), fixed_evaluation_batches
    batches = cut(len(data.held_out), worker.rank, worker.world_size, batch_size)
    counts: dict[str, list[Any]] = defaultdict(list)
    model.eval()
    for ids in batches:
        for name, value in count(recipe, model, data, ids, config, worker).items():
            counts[name].append(in_numbers(value))
    if is_sharded(model):  # workers with fewer batches help the others: the weights of a layer are gathered from all
        largest_share = math.ceil(len(data.held_out) / worker.world_size)
        for _ in range(math.ceil(largest_share / batch_size) - len(batches)):
            count(recipe, model, data, range(1), config, worker)
    model.train()
    totals = of_rank_0(add_up(gather_objects(counts, worker)), worker)
    return recipe.metrics(totals, len(data.held_out), data.facts)


def add_up(parts: list[dict[str, list[Any]]]) -> dict[str, Any]:
    """The totals of what the workers have counted. One without samples has no names, so this is no all-reduce."""
    everything: dict[str, list[Any]] = defaultdict(list)
    for part in parts:
        for name, values in part.items():
            everything[name] += values
    return {name: total(values) for name, values in everything.items()}


def count(
    recipe: Recipe, model: nn.Module, data: Data, ids: range, config: TrainConfig, worker: Worker
) -> dict[str, Tensor]:
    """What the recipe counts over these held-out samples."""
    batch = to_device(data.held_out[ids], worker.device)
    with autocast(worker.device, config.precision):
        return recipe.count(model, batch)


def in_numbers(counted: Tensor) -> Any:
    """What was counted as a number, or as an array of float64 if it is a table."""
    return counted.item() if counted.dim() == 0 else counted.cpu().double().numpy()


def total(counts: list[Any]) -> Any:
    """The sum of counts, the same in whatever order: numbers are added exactly, and tables hold whole numbers."""
    return math.fsum(counts) if isinstance(counts[0], float | int) else sum(counts)


@torch.no_grad()
def metric_names(recipe: Recipe, data: Data) -> list[str]:
    """What an evaluation of the recipe reports, such as held_out_loss: the names of one of a single sample."""
    batch = data.held_out[range(1)]
    counted = recipe.count(recipe.begin(data.folder).eval(), batch)
    metrics = recipe.metrics({name: in_numbers(value) for name, value in counted.items()}, 1, data.facts)
    return [f"held_out_{name}" for name, value in metrics.items() if not isinstance(value, list)]
