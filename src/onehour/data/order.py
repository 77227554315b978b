"""Which sample comes when: the order of the data as a pure function.

A run reads one endless stream: all samples in a shuffled order (epoch 0), then all of them in another order (epoch 1),
and so on for as long as it trains. The global batch of step s is positions s·B to (s + 1)·B of that stream, and each
worker reads its own contiguous slice of the batch. A batch may begin in one epoch and end in the next, so every batch
is full, and no sample is dropped or comes twice within an epoch, whatever the size of the batch.

Nothing here has a state. Each id follows from (position, num_samples, seed) alone: to resume at step s is to ask for
step s, another number of workers divides the same batches differently, and a trillion samples take no more memory
than ten, because the shuffled order is never written down anywhere.

How can one look up a single place of a shuffled deck without shuffling the deck? Lay the samples out on a grid and
turn every column by an amount that is a hash of the column's number, then every row by a hash of the row's number, and
do it again: like a Rubik's cube, it is soon well mixed, no two samples ever meet in one place, and where one sample
goes takes a few multiplications. This is a Feistel network [1] on rows and columns [2]. The grid has a few places more
than there are samples; a sample that lands on one of those moves on until it lands on a place that counts ("cycle
walking" [2]), and what remains is still one-to-one.

[1] M. Luby, C. Rackoff: How to construct pseudorandom permutations from pseudorandom functions. SIAM J. Comput., 1988.
[2] J. Black, P. Rogaway: Ciphers with arbitrary finite domains. CT-RSA, 2002.
"""

import math

import numpy as np
from numpy.typing import NDArray

from onehour.errors import InputError

# Each turns all columns and all rows. After three, samples that begin in one column of a small grid are still linked.
ROUNDS = 4
# A grid of a few places mixes too slowly to be fair to every order, and so few samples are quicker to sort.
SMALL = 1024
# 2^64 / golden ratio: the step of splitmix64, which makes inputs of the hash that lie close together differ widely.
GOLDEN = 0x9E3779B97F4A7C15


def positions_of(
    step: int | NDArray[np.int64], global_batch_size: int, rank: int = 0, world_size: int = 1
) -> NDArray[np.int64]:
    """The positions in the stream of a worker's share of the global batch: (global_batch_size // world_size,).

    For many steps, (S,), it is (S, global_batch_size // world_size). Raises InputError if the batch does not divide by
    the world size.
    """
    share, left_over = divmod(global_batch_size, world_size)
    if left_over:
        fitting = " or ".join(str(n * world_size) for n in (share, share + 1) if n)
        raise InputError(
            f"A global batch of {global_batch_size} samples does not divide by {world_size} workers: "
            f"set global_batch_size to {fitting}."
        )
    first = np.asarray(step) * global_batch_size + rank * share
    positions: NDArray[np.int64] = first[..., None] + np.arange(share)
    return positions


def evaluation_ids(num_samples: int, rank: int, world_size: int) -> range:
    """The samples that worker `rank` evaluates, in order. Over all ranks each sample comes exactly once, unpadded.

    Shares differ by one sample at most; with more workers than samples some are empty.
    """
    return range(num_samples * rank // world_size, num_samples * (rank + 1) // world_size)


def sample_at(positions: NDArray[np.int64], num_samples: int, seed: int) -> NDArray[np.int64]:
    """The ids, 0 to num_samples - 1, of the samples at these positions of the endless stream: (N,) -> (N,).

    Positions count from 0 and may come in any order; position p lies in epoch p // num_samples. `seed` is any integer.
    Raises InputError if there are no samples.
    """
    if num_samples < 1:
        raise InputError(f"There are {num_samples} samples to put in order: training needs at least one.")
    epochs, places = np.divmod(positions, num_samples)
    seeds = _hash(np.full(1, seed % 2**64, np.uint64))
    if num_samples <= SMALL:
        return _sort_random_numbers(places, epochs, seeds, num_samples)
    keys = _hash(seeds + epochs.astype(np.uint64))
    return _turn_grid(places.astype(np.uint64), keys, num_samples).astype(np.int64)


def uniform(positions: NDArray[np.int64], num_numbers: int, seed: int) -> NDArray[np.float32]:
    """Random numbers in [0, 1) for the samples at these positions, to augment them with: (N,) -> (N, num_numbers).

    A position is a sample in an epoch, so a sample meets new numbers in each epoch, and the same ones on any worker.
    """
    seeds = _hash(np.full(1, ~seed % 2**64, np.uint64))  # not the numbers that made the order
    keys = _hash(seeds + positions.astype(np.uint64))
    hashes = _hash(keys[:, None] + np.arange(num_numbers, dtype=np.uint64) * GOLDEN)
    return (hashes >> 40).astype(np.float32) / np.float32(2**24)  # a float32 has 24 bits to fill


def _sort_random_numbers(
    places: NDArray[np.int64], epochs: NDArray[np.int64], seeds: NDArray[np.uint64], num_samples: int
) -> NDArray[np.int64]:
    """The order of a few samples: give each a random number and sort by it, which is fair to every order."""
    each, which = np.unique(epochs, return_inverse=True)
    keys = _hash(seeds + each.astype(np.uint64))
    numbers = _hash(keys[:, None] + np.arange(num_samples, dtype=np.uint64) * GOLDEN)
    return np.argsort(numbers, axis=1, kind="stable")[which, places]


def _turn_grid(places: NDArray[np.uint64], keys: NDArray[np.uint64], num_samples: int) -> NDArray[np.uint64]:
    """The order of many samples: where each place of the shuffled deck comes from; one key for each place."""
    # An even number of rows: to turn a column is then an odd permutation, so odd and even orders both come up.
    num_rows = 2 * math.ceil(math.sqrt(num_samples) / 2)
    num_columns = -(-num_samples // num_rows)
    ids = _turn_all(places, keys, num_rows, num_columns)
    while (outside := np.flatnonzero(ids >= num_samples)).size:
        ids[outside] = _turn_all(ids[outside], keys[outside], num_rows, num_columns)
    return ids


def _turn_all(
    places: NDArray[np.uint64], keys: NDArray[np.uint64], num_rows: int, num_columns: int
) -> NDArray[np.uint64]:
    """One-to-one on the num_rows * num_columns places of the grid: (N,) -> (N,)."""
    row, column = np.divmod(places, num_columns)
    for turn in range(0, 2 * ROUNDS, 2):
        row = _turn(row, column, keys + turn * GOLDEN % 2**64, num_rows)
        column = _turn(column, row, keys + (turn + 1) * GOLDEN % 2**64, num_columns)
    return row * num_columns + column


def _turn(
    moving: NDArray[np.uint64], fixed: NDArray[np.uint64], keys: NDArray[np.uint64], length: int
) -> NDArray[np.uint64]:
    """Move by a hash of the other coordinate, around a circle of `length` places."""
    # The upper 32 bits of the hash, as a fraction of 2^32, times the length: a remainder without the slow division.
    moved = moving + ((_hash(keys + fixed * (2 * ROUNDS * GOLDEN % 2**64)) >> 32) * length >> 32)
    left: NDArray[np.uint64] = np.minimum(moved, moved - length)  # below zero, an unsigned number is a large one
    return left


def _hash(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every bit of the result depends on every bit of x. Arithmetic is modulo 2^64."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
