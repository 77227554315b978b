"""Many workers: wrapping a model so that all of them train one set of weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from onehour.errors import InputError
from onehour.training.device import Worker
from onehour.training.layers import layers_of

T = TypeVar("T")


def parallelize(
    model: nn.Module, strategy: str, worker: Worker, precision: str = "float32", offload: bool = False
) -> nn.Module:
    """`model`, wrapped by a strategy of `TrainConfig.strategy`. The optimizer is built afterwards, over `model`.

    none: as it is, for one worker.
    ddp: DistributedDataParallel. Every worker has all the weights and a share of the batch; gradients are averaged
        while backward still runs (Li et al. 2020, https://arxiv.org/abs/2006.15704).
    fsdp: fully_shard (FSDP2). Every worker keeps a part of each weight, its gradient and its moments; the weights of a
        layer come together while the layer computes (Zhao et al. 2023, https://arxiv.org/abs/2304.11277).
    dp: DataParallel. One process copies the model to each of its GPUs at every step; taught, not recommended.

    Raises:
        InputError: the strategy does not fit the number of workers.
    """
    if strategy == "auto":
        strategy = "ddp" if worker.world_size > 1 else "none"
    if strategy in ("none", "dp") and worker.world_size > 1:
        raise InputError(
            f"--strategy {strategy} is for one worker, and there are {worker.world_size}; use --strategy ddp or fsdp."
        )
    if strategy == "dp":
        return DataParallel(model)
    if strategy == "ddp" and worker.world_size > 1:
        device_ids = [worker.device] if worker.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids, gradient_as_bucket_view=True)
    if strategy == "fsdp" and worker.world_size > 1:
        return shard(model, worker, precision, offload)
    return model


def shard(model: nn.Module, worker: Worker, precision: str, offload: bool) -> nn.Module:
    """Turn the parameters of `model` into DTensors of which each worker has a part, layer by layer.

    A layer is what stands in a ModuleList. All workers gather its weights before it computes and forget them after it,
    so that no worker ever holds all the weights at once. In bfloat16 they travel as bfloat16, half as many bytes, and
    gradients are added up in float32. With `offload`, parts wait in the CPU's memory.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard  # takes 0.6 s

    half = precision == "bfloat16"
    policies: dict[str, Any] = {
        "mesh": init_device_mesh(worker.device.type, (worker.world_size,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy(pin_memory=worker.device.type == "cuda") if offload else OffloadPolicy(),
    }
    for layer in layers_of(model):
        fully_shard(layer, reshard_after_forward=True, **policies)
    fully_shard(model, reshard_after_forward=True, **policies)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether each worker holds a part of the model only."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


# A sharded tensor is a DTensor, told by its attributes: to import that class takes half a second.
def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which each worker may have a part; all workers have to ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[no-any-return]


def part_like(tensor: Tensor, value: Tensor) -> Tensor:
    """`value`, or if `tensor` is sharded the part of it that this worker has of `tensor`."""
    if not hasattr(tensor, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)  # type: ignore[attr-defined]


def without_all_reduce(model: nn.Module, unless: bool) -> AbstractContextManager[None]:
    """Within it, backward adds to the local gradients only, `unless` this is the last micro-batch of a step."""
    if is_sharded(model):
        model.set_requires_gradient_sync(unless)  # type: ignore[operator]
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not unless else nullcontext()


def num_processes() -> int:
    """The number of workers; 1 where torch.distributed was not started."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share_out(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """`function` of a batch (N, ...), of which each worker computes a share; all have the same bits of the result.

    It gives a tensor of the same shape and type, and each of the N alone. Shares are of equal size: where they don't
    come out even, the last ones begin again at the first.
    """
    if num_processes() == 1:
        return function(batch)
    size = -(-len(batch) // num_processes())
    mine = (torch.arange(size, device=batch.device) + dist.get_rank() * size) % len(batch)
    result = function(batch[mine]).contiguous()
    results = [torch.empty_like(result) for _ in range(num_processes())]
    dist.all_gather(results, result)
    return torch.cat(results)[: len(batch)]


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


def gather_tensors(tensor: Tensor, worker: Worker) -> list[Tensor]:
    """The `tensor` of every worker, of one shape, in the order of their ranks."""
    tensors = [tensor] * worker.world_size
    if worker.world_size > 1:
        tensors = [torch.empty_like(tensor) for _ in tensors]
        dist.all_gather(tensors, tensor)
    return tensors


def gather_objects(value: T, worker: Worker) -> list[T]:
    """The `value` of every worker, in the order of their ranks, on rank 0; nothing elsewhere.

    If all had them all, each worker would receive and unpack more, the more of them there are.
    """
    values = [value] * worker.world_size
    if worker.world_size > 1 and worker.device.type == "cuda":
        # NCCL would gather by a connection of rank 0 to each other worker, each with memory of its GPU (not measured).
        dist.all_gather_object(values, value)
    elif worker.world_size > 1:
        dist.gather_object(value, values if worker.rank == 0 else None)
    return values if worker.rank == 0 else []


def of_rank_0(value: T, worker: Worker) -> T:
    """The `value` of rank 0, on every worker."""
    values = [value]
    if worker.world_size > 1:
        dist.broadcast_object_list(values)
    return values[0]
