"""The same bits at any number of workers: sums whose order does not depend on who computes what.

a + (b + c) is rounded differently from (a + b) + c, and training makes more of such a difference at each step. So the
global batch is cut into as many shards as the configuration says, and the gradients of the shards are added up in
pairs, the pairs in pairs, and so on, whoever has computed them:

    ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))

A worker among 1, 2, 4 or 8 has whole subtrees of this tree: it adds up those itself, and workers do the rest.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from onehour.errors import InputError
from onehour.training.device import Worker, side_stream


def add_in_pairs(model: nn.Module, num_micro_batches: int, worker: Worker) -> None:
    """Let backward add up the gradients of a step in pairs, over micro-batches and workers; it gives their sum.

    `model` is wrapped already. Both numbers are powers of two.

    Raises:
        InputError: the model keeps statistics of the samples that it has seen.
    """
    check_statistics(model)
    for parameter in model.parameters():
        if parameter.requires_grad and num_micro_batches > 1:
            parameter.register_post_accumulate_grad_hook(add_micro_batches(num_micro_batches))
    if isinstance(model, DistributedDataParallel):
        model.register_comm_hook(worker, add_workers)


def check_statistics(model: nn.Module) -> None:
    """Refuse a model with running statistics: each worker would keep those of its own shards."""
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            raise InputError(
                f"--reproducible cannot train {type(module).__name__} ({name}): its running statistics depend on which "
                "samples a worker sees; use GroupNorm or LayerNorm."
            )


def add_micro_batches(num_micro_batches: int) -> Callable[[Tensor], None]:
    """A hook of one parameter that adds up its gradients over the micro-batches of a step, in pairs.

    Like a number that counts in binary: a sum of two waits until the next two are added up, then both become a sum of
    four. Of 8 micro-batches 2 sums wait at most. After the last one, the gradient is the sum of all.
    """
    waiting: list[Tensor] = []
    count = 0

    def hook(parameter: Tensor) -> None:
        nonlocal count
        assert parameter.grad is not None
        count += 1
        if count % 2:  # to this gradient torch itself adds the next one
            return
        pairs = count // 2
        while pairs % 2 == 0:  # the sum of as many micro-batches before these is waiting
            parameter.grad += waiting.pop()
            pairs //= 2
        if count < num_micro_batches:
            waiting.append(parameter.grad)
            parameter.grad = None
        else:
            count = 0

    return hook


def add_workers(worker: Worker, bucket: GradBucket) -> Future[Tensor]:
    """A hook of DistributedDataParallel that adds up a bucket of gradients over the workers, in pairs.

    Each worker gets one part of the bucket from all others, adds it up, and gives the sum to all: as many bytes as the
    ring of an all-reduce sends. On a GPU that happens beside the rest of backward.
    """
    future: Future[Tensor] = Future(devices=[worker.device] if worker.device.type == "cuda" else None)
    with side_stream(worker.device):
        future.set_result(sum_over_workers(bucket.buffer(), worker.world_size))
    return future


def sum_over_workers(buffer: Tensor, world_size: int) -> Tensor:
    """The sum of a tensor (N,) over the workers, in pairs and in place."""
    size = -(-len(buffer) // world_size)
    sent = buffer if len(buffer) == size * world_size else buffer.new_zeros(size * world_size)
    sent[: len(buffer)] = buffer
    parts = torch.empty_like(sent)
    dist.all_to_all_single(parts, sent)
    dist.all_gather(list(sent.view(world_size, size)), sum_in_pairs(parts.view(world_size, size)))
    return buffer.copy_(sent[: len(buffer)])


def sum_in_pairs(terms: Sequence[Tensor] | Tensor) -> Tensor:
    """The sum of N tensors, or over the first dimension of one (N, ...): of the first half and of the second."""
    half = len(terms) // 2
    return sum_in_pairs(terms[:half]) + sum_in_pairs(terms[half:]) if half else terms[0]


def mean_in_pairs(terms: Sequence[Tensor]) -> Tensor:
    """The mean of N tensors. Where N is a power of two, it has the same bits if it is that of the means of two halves."""
    return sum_in_pairs(terms) / len(terms)
