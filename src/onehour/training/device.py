"""Where a worker computes, and in which precision: the one place that knows about devices."""

import atexit
import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

from onehour.config import TrainConfig
from onehour.errors import InputError


@dataclass(frozen=True)
class Worker:
    """One process that trains, among `world_size` that do the same."""

    rank: int
    world_size: int
    device: torch.device
    saving: dist.ProcessGroup | None = None
    """Where the model is sharded, the group in which all workers save their parts while the training goes on."""


def this_worker(config: TrainConfig) -> Worker:
    """The worker that this process is.

    torchrun and Ray both say it in RANK, WORLD_SIZE and LOCAL_RANK; without them the process is alone. Ray has
    already initialized torch.distributed; under torchrun it happens here.

    Raises:
        InputError: the device that was asked for is not there, or cannot do what was asked for.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = find_device(config.device)
    if config.precision == "tf32":
        if device.type != "cuda":
            raise InputError(f"--precision tf32 is of NVIDIA GPUs, and this is {device.type}; use float32 or bfloat16.")
        torch.set_float32_matmul_precision("high")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if config.reproducible:
        fix_arithmetic(device)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(end_process_group)
    sharded = config.strategy == "fsdp" and world_size > 1
    return Worker(rank, world_size, device, dist.new_group(backend="gloo") if sharded else None)


def end_process_group() -> None:
    """Take down the process group: gloo's threads abort a process that ends while they run.

    Garbage that refers to the group, such as a wrapped model in a circle of references, would keep them; it goes first.
    """
    gc.collect()
    dist.destroy_process_group()


def fix_arithmetic(device: torch.device) -> None:
    """From here on, let this process compute the same bits from the same numbers, whatever else the machine does.

    In which order a CPU adds up the terms of a matrix product depends on the number of its threads: it gets one. For a
    GPU it is what https://docs.pytorch.org/docs/stable/notes/randomness.html advises, and not measured here.
    """
    torch.set_num_threads(1)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrices are multiplied
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it only costs time
        torch.backends.cudnn.benchmark = False


def find_device(name: str) -> torch.device:
    """The device called `name`: auto, cuda, mps or cpu.

    Of the GPUs that a process sees, it takes the one of its LOCAL_RANK; where it sees its own only, that one.
    """
    there = available_devices()
    if name == "auto":
        name = there[0]
    if name not in there:
        raise InputError(
            f"--device {name} was asked for, but torch {torch.__version__} finds {' and '.join(there)} here."
        )
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(name)


def available_devices() -> list[str]:
    """The kinds of device that torch can use on this machine, fastest first; cpu is always the last."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, usable in there.items() if usable]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Within it, matrix products run in `precision`; sums, norms and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def peak_memory(device: torch.device) -> int:
    """The most memory that this process has used so far, in bytes: the GPU's, or on a CPU the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def give_back() -> None:
    """Free what only cycles hold, such as an optimizer, and give freed memory back to the system.

    glibc keeps freed blocks below 32 MB, in pieces that others may not fit into.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Within it, a GPU works beside what it was asked before, and begins when that is done; a CPU works as ever."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.current_stream(device)
    with torch.cuda.stream(side := stream_of(device)):
        side.wait_stream(before)
        yield


@cache
def stream_of(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a GPU for what is done beside the computation."""
    return torch.cuda.Stream(device)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was asked to; a CPU does at once what it is asked to."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A copy of the batch on `device`; from pinned memory it is made beside computing.

    On a CPU, too: how a product is rounded may depend on whether its terms begin at a multiple of 16 bytes, as a copy's
    do, and those of a batch that was cut from a larger one may not.
    """
    return {name: column.to(device, non_blocking=True, copy=True) for name, column in batch.items()}


def seed_random(seed: int, device: torch.device) -> None:
    """Seed the generators that a model draws from. Of torch.manual_seed that is the part that takes microseconds."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the generators that this worker's model draws from (dropout, say), each a uint8 tensor."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put the generators back to where `random_state` saw them."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
