"""DistributedDataParallel, written out once: processes that train one model together, on CPUs and over gloo."""

import gc
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from onehour.data.order import positions_of, sample_at
from onehour.models.mlp import MLP
from onehour.training.device import Worker
from onehour.training.parallel import without_all_reduce
from onehour.training.reproducible import add_in_pairs

NUM_SAMPLES, GLOBAL_BATCH_SIZE, NUM_STEPS, SEED = 1000, 16, 60, 123
NUM_SHARDS = 8  # micro-batches of a global batch, where bits count

Answers: TypeAlias = "SimpleQueue[Any]"
Work = Callable[[int, int], Any]


def points() -> tuple[Tensor, Tensor]:
    """1,000 points of a plane, and whether both coordinates have the same sign: (1000, 2), (1000,)."""
    x = torch.randn(NUM_SAMPLES, 2, generator=torch.Generator().manual_seed(SEED))
    return x, (x.prod(dim=1) > 0).long()


def build_model(seed: int) -> MLP:
    """A network of 752 parameters."""
    torch.manual_seed(seed)
    return MLP(2, [30, 20], 2)


def share(step: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """Which points a worker trains at a step: (16 // world_size,)."""
    positions = positions_of(step, GLOBAL_BATCH_SIZE, rank, world_size)
    return sample_at(positions, NUM_SAMPLES, SEED)


def by_hand(rank: int, world_size: int) -> list[float]:
    """What one worker does; returns the global loss of each step."""
    x, y = points()
    model = build_model(seed=rank)  # each worker draws weights of its own ...
    for parameter in model.parameters():
        dist.broadcast(parameter.data, src=0)  # ... and takes those of rank 0
    optimizer = SGD(model.parameters(), lr=0.5)
    losses = []
    for step in range(NUM_STEPS):
        mine = share(step, rank, world_size)
        loss = cross_entropy(model(x[mine]), y[mine])  # the mean over mine
        optimizer.zero_grad()
        loss.backward()
        for gradient in [p.grad for p in model.parameters() if p.grad is not None]:
            dist.all_reduce(gradient)  # now the sum over all workers ...
            gradient /= world_size  # ... and now the mean
        optimizer.step()  # same weights, same gradient: the same step for all
        losses.append(mean_over_workers(loss, world_size))
    return losses


def with_ddp(rank: int, world_size: int) -> list[float]:
    """The same by PyTorch's wrapper: it broadcasts when it is built, and averages while backward runs."""
    x, y = points()
    model = DistributedDataParallel(build_model(seed=rank))
    optimizer = SGD(model.parameters(), lr=0.5)
    losses = []
    for step in range(NUM_STEPS):
        mine = share(step, rank, world_size)
        loss = cross_entropy(model(x[mine]), y[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(mean_over_workers(loss, world_size))
    return losses


def mean_over_workers(loss: Tensor, world_size: int) -> float:
    """The mean of the workers' losses, of shape (): their shares are equally large, so it is the global batch's."""
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item() / world_size


def both(rank: int, world_size: int) -> dict[str, list[float]]:
    """The losses of both ways, one after the other in the same processes: to start processes takes seconds."""
    return {"by hand": by_hand(rank, world_size), "DistributedDataParallel": with_ddp(rank, world_size)}


def weights_of_both(rank: int, world_size: int) -> dict[str, bytes]:
    """The trained weights, bit for bit: with DistributedDataParallel's sums, and with sums in pairs."""
    return {"as they come": trained(rank, world_size, False), "in pairs": trained(rank, world_size, True)}


def trained(rank: int, world_size: int, in_pairs: bool) -> bytes:
    """The weights after all steps, in each of which every worker trains its part of eight micro-batches."""
    torch.set_num_threads(1)  # a product of matrices is a sum, too
    x, y = points()
    model = DistributedDataParallel(build_model(SEED))
    each = NUM_SHARDS // world_size
    if in_pairs:
        add_in_pairs(model, each, Worker(rank, world_size, torch.device("cpu")))
    optimizer = SGD(model.parameters(), lr=0.5)
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        for i, mine in enumerate(np.split(share(step, rank, world_size), each)):
            with without_all_reduce(model, unless=i == each - 1):
                loss = cross_entropy(model(x[mine]), y[mine])
                (loss / (NUM_SHARDS if in_pairs else each)).backward()
        optimizer.step()
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


def one_worker(rank: int, world_size: int, meeting: str, work: Work, answers: Answers) -> None:
    """A process of the group: it joins, works, hands in its answer and leaves."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",  # a file, where they find each other
        rank=rank,
        world_size=world_size,
    )
    answers.put((rank, work(rank, world_size)))
    dist.barrier()  # whoever leaves first would cut the others off
    gc.collect()  # a sharded model holds the group in a cycle, and gloo's threads abort a process that ends before them
    dist.destroy_process_group()


def start(work: Work, world_size: int) -> list[Any]:
    """Run `work(rank, world_size)` in `world_size` new processes; returns their answers in the order of the ranks."""
    answers: Answers = get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world_size, str(Path(folder) / "meeting"), work, answers)
        spawn(one_worker, arguments, nprocs=world_size)
    return [answer for _, answer in sorted(answers.get() for _ in range(world_size))]
