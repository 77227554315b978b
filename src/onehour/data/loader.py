"""From sample ids to the batches that a worker trains on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from onehour.config import TrainConfig
from onehour.data.arrow import Rows
from onehour.data.order import evaluation_ids, positions_of, sample_at, uniform
from onehour.errors import InputError
from onehour.recipe import Batch, Recipe

IDS = "id of the sample"  # a column that the training takes out again; no recipe has one of this name
STEPS = 64  # steps whose order is worked out together
SHARDS = 8  # at most, of a global batch that is trained with --reproducible, unless micro_batch_size says how many
BLOCK_BYTES = 2**21  # of samples that are gathered together: they stay in the processor's cache


@dataclass(frozen=True)
class MicroBatches(Dataset[Batch]):
    """The micro-batches of one worker, in order: item i is a pure function of i.

    Torch's DataLoader usually collects single samples into a batch. Here an item is a whole micro-batch, gathered
    from the memory-mapped columns at once; the loader adds processes and prefetching, and the order stays.
    """

    recipe: Recipe
    rows: Rows
    seed: int
    global_batch_size: int
    rank: int
    world_size: int
    num_micro_batches: int
    """Micro-batches in one optimizer step of one worker."""
    with_ids: bool = False
    """Whether each has a column IDS, for the record of what was trained."""

    def __getitem__(self, index: int) -> Batch:
        (batch,) = self.gather(index, index + 1)
        return batch

    def gather(self, first: int, last: int) -> Iterator[Batch]:
        """The items from `first` up to, without, `last`, by one look into the file; no block of STEPS ends between them."""
        in_block = STEPS * self.num_micro_batches
        shares = shares_of_steps(
            first // in_block, self.global_batch_size, self.rank, self.world_size, len(self.rows), self.seed
        )
        here = slice(first % in_block, first % in_block + last - first)
        positions, ids = (each.reshape(in_block, self.size)[here] for each in shares)
        columns = {name: column.split(self.size) for name, column in self.rows[ids.ravel()].items()}
        for i, at in enumerate(positions):
            batch = {name: parts[i] for name, parts in columns.items()}
            batch = self.recipe.augment(batch, lambda n, at=at: torch.from_numpy(uniform(at, n, self.seed)))  # type: ignore[misc]
            yield batch | {IDS: torch.from_numpy(ids[i].copy())} if self.with_ids else batch

    @property
    def size(self) -> int:
        """Samples in a micro-batch."""
        return self.global_batch_size // self.world_size // self.num_micro_batches

    def sample_ids(self, step: int) -> NDArray[np.int64]:
        """The ids of the whole global batch of a step, from 0: (global_batch_size,)."""
        return sample_at(positions_of(step, self.global_batch_size), len(self.rows), self.seed)

    def steps(self, first: int, last: int, num_processes: int, pin_memory: bool) -> Iterator[list[Batch]]:
        """The micro-batches of each step from `first` up to, without, `last`. To resume is to set `first`."""
        indices = range(first * self.num_micro_batches, last * self.num_micro_batches)
        batches = self.loaded(indices, num_processes, pin_memory) if num_processes else self.here(indices, pin_memory)
        for _ in range(first, last):
            yield [next(batches) for _ in range(self.num_micro_batches)]

    def here(self, indices: range, pin_memory: bool) -> Iterator[Batch]:
        """These items, gathered in this process: small ones many at a time, which takes less time."""
        together = 2 ** max(0, min(BLOCK_BYTES // (self.size * self.rows.row_bytes), STEPS).bit_length() - 1)
        at = indices.start
        while at < indices.stop:
            end = min(at - at % together + together, indices.stop)
            for batch in self.gather(at, end):
                yield {name: column.pin_memory() for name, column in batch.items()} if pin_memory else batch
            at = end

    def loaded(self, indices: range, num_processes: int, pin_memory: bool) -> Iterator[Batch]:
        """These items, by other processes and ahead of time."""
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=indices,
            num_workers=num_processes,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # its own: a loader must not advance the random numbers of the model
        )
        return iter(loader)


@lru_cache(maxsize=2)
def shares_of_steps(
    block: int, global_batch_size: int, rank: int, world_size: int, num_samples: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions and sample ids of a worker's shares in the steps from block * STEPS on: two (STEPS, share) arrays.

    The order is a pure function, so working it out for many steps at once changes nothing but the time it takes.
    """
    steps = np.arange(block * STEPS, (block + 1) * STEPS)
    positions = positions_of(steps, global_batch_size, rank, world_size)
    return positions, sample_at(positions.ravel(), num_samples, seed).reshape(positions.shape)


def num_micro_batches(config: TrainConfig, world_size: int) -> int:
    """How many micro-batches one worker accumulates, so that none has more than `micro_batch_size` samples.

    Raises:
        InputError: the global batch does not divide by the number of workers; names the nearest sizes that do.
    """
    if config.reproducible:
        return num_shards(config, world_size) // world_size
    share = positions_of(0, config.global_batch_size, 0, world_size).size
    largest = config.micro_batch_size or share
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= largest)


def num_shards(config: TrainConfig, world_size: int = 1) -> int:
    """Of a reproducible training: the micro-batches of a global batch, all workers together. It is a power of two.

    Raises:
        InputError: the global batch has no such shards, or `world_size` workers cannot have equally many of them.
    """
    total = config.global_batch_size
    size = config.micro_batch_size or total // math.gcd(total, SHARDS)
    shards, left_over = divmod(total, size)
    if left_over or shards & (shards - 1):
        largest = total & -total  # the largest power of two that divides it
        raise InputError(
            f"--reproducible cuts the global batch into 1, 2, 4, 8 or another power of two of micro-batches, and {total} "
            f"samples are not that many times {size}: set micro_batch_size to {total // largest} (which makes {largest}), or "
            f"global_batch_size to {size * 2 ** round(math.log2(total / size))}."
        )
    if shards % world_size:
        fitting = ", ".join(str(2**i) for i in range(shards.bit_length()))
        raise InputError(
            f"--reproducible shares {shards} micro-batches of {size} equally, so it is for {fitting} workers, and there are "
            f"{world_size}; use one of these numbers, or make more micro-batches."
        )
    return shards


def fixed_evaluation_batches(num_samples: int, rank: int, world_size: int, batch_size: int) -> list[range]:
    """This worker's part of the batches of held-out samples, each of which is the same at any number of workers."""
    batches = evaluation_batches(num_samples, 0, 1, batch_size)
    mine = evaluation_ids(len(batches), rank, world_size)
    return batches[mine.start : mine.stop]


def evaluation_batches(num_samples: int, rank: int, world_size: int, batch_size: int) -> list[range]:
    """The ids of this worker's part of the held-out samples, in order: over all workers each comes exactly once."""
    ids = evaluation_ids(num_samples, rank, world_size)
    return [range(first, min(first + batch_size, ids.stop)) for first in range(ids.start, ids.stop, batch_size)]
