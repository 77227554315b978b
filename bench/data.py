"""What the data cost: python bench/data.py

The share of gpt's step time that goes into its batches; batches of the same rows through torch's usual DataLoader of
single samples; and opening a file of 10 GB.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from onehour.data.arrow import Rows, write_rows
from onehour.data.loader import MicroBatches
from onehour.data.prepare import prepare
from onehour.recipes.gpt import GPTRecipe
from onehour.training.loop import train
from watch import ratio

BATCH = 64


class Samples(Dataset[Tensor]):
    """The same rows as a plain dataset of single samples."""

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Tensor:
        return torch.from_numpy(self.rows[i])


def samples_per_second(batches: Iterator[object], num_batches: int) -> float:
    """How fast batches of BATCH samples come, after ten to warm up."""
    for _ in islice(batches, 10):
        pass
    began = time.perf_counter()
    for _ in islice(batches, num_batches):
        pass
    return num_batches * BATCH / (time.perf_counter() - began)


def compare(ours: Callable[[], Iterator[object]], theirs: Callable[[], Iterator[object]], name: str) -> None:
    """Print the speed of both, in turn, five times."""
    speeds = [(samples_per_second(ours(), 2000), samples_per_second(theirs(), 500)) for _ in range(5)]
    mine, other = ([pair[i] for pair in speeds] for i in (0, 1))
    medians = f"{statistics.median(mine):,.0f} / {statistics.median(other):,.0f}"
    print(f"samples/s, onehour / {name}: {ratio(mine, other)}; {medians}")


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    recipe = GPTRecipe()
    rows, config = prepare(recipe).train, recipe.defaults()

    def ours(size: int = BATCH) -> Iterator[object]:
        return MicroBatches(recipe, rows, 0, size, 0, 1, 1).steps(0, 10**9, num_processes=0, pin_memory=False)

    everything = rows[np.arange(len(rows))]["tokens"].numpy()
    compare(ours, lambda: iter(DataLoader(Samples(everything), BATCH, shuffle=True)), "DataLoader of single samples")

    waiting = BATCH / samples_per_second(ours(config.global_batch_size), 2000)
    *_, report = islice(train(recipe, config), 30)  # the reports of the first 300 steps; the last is warm
    step = config.global_batch_size / report.metrics["samples_per_second"]
    print(f"waiting for data: {1e3 * waiting:.2f} ms of a step of {1e3 * step:.1f} ms, {waiting / step:.2%}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.arrow"
        write_rows(
            path, ({"tokens": np.zeros((2**16, 257), np.uint8)} for _ in range(10_000_000_000 // 257 // 2**16 + 1))
        )
        began = time.perf_counter()
        large = Rows(path)
        seconds = time.perf_counter() - began
        print(f"opening {path.stat().st_size / 1e9:.1f} GB, {len(large):,} rows: {1e3 * seconds:.1f} ms")


if __name__ == "__main__":
    main()
