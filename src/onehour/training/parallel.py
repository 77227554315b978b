"""Many workers: wrapping a model so that all of them train one set of weights."""

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from onehour.errors import InputError
from onehour.training.device import Worker

T = TypeVar("T")


def parallelize(model: nn.Module, strategy: str, worker: Worker) -> nn.Module:
    """`model`, wrapped by a strategy of `TrainConfig.strategy`; its parameters stay the same objects.

    none: as it is, for one worker.
    ddp: DistributedDataParallel. Every worker has all the weights and a share of the batch; gradients are averaged
        while backward still runs (Li et al. 2020, https://arxiv.org/abs/2006.15704).
    dp: DataParallel. One process copies the model to each of its GPUs at every step; taught, not recommended.

    Raises:
        InputError: the strategy does not fit the number of workers.
    """
    if strategy == "auto":
        strategy = "ddp" if worker.world_size > 1 else "none"
    if strategy != "ddp" and worker.world_size > 1:
        raise InputError(
            f"--strategy {strategy} is for one worker, and there are {worker.world_size}; use --strategy ddp."
        )
    if strategy == "dp":
        return DataParallel(model)
    if strategy == "ddp" and worker.world_size > 1:
        device_ids = [worker.device] if worker.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids, gradient_as_bucket_view=True)
    return model


def without_all_reduce(model: nn.Module, unless: bool) -> AbstractContextManager[None]:
    """Within it, backward adds to the local gradients only, `unless` this is the last micro-batch of a step."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not unless else nullcontext()


def mean_over_workers(tensor: Tensor, worker: Worker) -> Tensor:
    """The mean of `tensor` over all workers, in place."""
    if worker.world_size > 1:
        dist.all_reduce(tensor)
        tensor /= worker.world_size
    return tensor


def max_over_workers(tensor: Tensor, worker: Worker) -> Tensor:
    """The maximum of each element of `tensor` over all workers, in place."""
    if worker.world_size > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def gather_objects(value: T, worker: Worker) -> list[T]:
    """The `value` of every worker, in the order of their ranks."""
    values = [value] * worker.world_size
    if worker.world_size > 1:
        dist.all_gather_object(values, value)
    return values
