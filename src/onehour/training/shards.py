"""Tensors of which each worker has a part, to and from files.

The files are safetensors, written and read by torch.distributed.checkpoint: it works out which worker writes what, and
which bytes of which file a worker needs, at any number of workers. Imported late, as that takes half a second.
"""

import warnings
from pathlib import Path
from typing import cast

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from onehour.training.sums import sum_lines


def write_parts(tensors: dict[str, dict[str, Tensor]], folder: Path | None, group: dist.ProcessGroup) -> str:
    """Write this worker's parts of the tensors into a folder for each name; all workers of `group` have to call it.

    The worker of rank 0 says where, the others give None. It gets the lines of SHA256SUMS for the parts of all; they "".

    Raises:
        OSError: one of the workers could not write its part.
    """
    place = [folder]
    dist.broadcast_object_list(place, 0, group)
    root = cast(Path, place[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's about its own use of what it has deprecated
        try:
            for name, content in tensors.items():
                writer = HuggingFaceStorageWriter(str(root / name), save_distributed=True)
                save(content, storage_writer=writer, process_group=group)
        except CheckpointException as error:
            rank, (reason, _) = next(iter(error.failures.items()))
            raise OSError(f"the worker of rank {rank} could not write its part: {reason}") from error
    mine = root.glob(f"*/shard-{dist.get_rank(group) + 1:05d}-*")
    lines = [""] * dist.get_world_size(group) if dist.get_rank(group) == 0 else []
    dist.gather_object(sum_lines(mine, root), lines or None, group=group)
    return "".join(lines)


def read_parts(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill these tensors, whole or sharded, from the parts in `folder`; other workers need not take part."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that this works without the other workers
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def shapes_of_parts(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the whole tensors whose parts lie in `folder`."""
    described = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: tuple(tensor.size) for name, tensor in described.items()}  # type: ignore[union-attr]
