"""fully_shard: workers that train one model of which each holds only a part, on CPUs and over gloo."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from onehour.course.ddp import SEED, build_model, mean_over_workers, points, share


@dataclass(frozen=True)
class Part:
    """What one worker saw."""

    whole: int
    """Parameters of the model."""
    held: int
    """Parameters of which this worker holds the numbers."""
    moments: int
    """Numbers that its optimizer keeps."""
    losses: list[float]
    """Of the global batch, at each step."""


def sharded(rank: int, world_size: int) -> Part:
    """Ten steps of AdamW on a model that is sharded layer by layer."""
    x, y = points()
    model = build_model(SEED)
    mesh = init_device_mesh("cpu", (world_size,))
    for layer in model.layers:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)  # gathered while it computes
    fully_shard(model, mesh=mesh)  # what no layer has taken; here nothing
    optimizer = AdamW(model.parameters(), lr=0.01)  # of this part only
    losses = []
    for step in range(10):
        mine = share(step, rank, world_size)
        loss = cross_entropy(model(x[mine]), y[mine])
        optimizer.zero_grad()
        loss.backward()  # reduce-scatter: gradients summed and parted
        optimizer.step()
        losses.append(mean_over_workers(loss, world_size))
    return part_of(model, optimizer, losses)


def part_of(model: nn.Module, optimizer: AdamW, losses: list[float]) -> Part:
    """What of a sharded model and of its optimizer lies in this process."""
    whole = sum(p.numel() for p in model.parameters())  # a sharded parameter still tells the size of the whole
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    return Part(whole, sum(map(count, model.parameters())), sum(map(count, moments)), losses)


def count(tensor: Tensor) -> int:
    """How many numbers of a sharded tensor lie in this process."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local().numel()
