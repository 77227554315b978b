"""What the data cost: python bench/data.py

Batches of 64 rows of tokens and of images beside torch's DataLoader over the same rows as a plain dataset of samples,
and beside Ray Data's iter_torch_batches over their first column, in order and shuffled within 4,096 rows; the share of
gpt's step time that goes into its batches; opening a file of 10 GB; the first batch of a trillion samples.
"""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from onehour.cluster.connect import ray_cluster
from onehour.data.arrow import Rows, write_rows
from onehour.data.loader import MicroBatches
from onehour.data.order import sample_at
from onehour.data.prepare import prepare
from onehour.recipe import Recipe
from onehour.recipes.gpt import GPTRecipe
from onehour.recipes.toy import Toy
from onehour.training.loop import train
from watch import ratio

BATCH = 64


class Samples(Dataset[dict[str, Tensor]]):
    """The same rows as a plain dataset of single samples, in memory."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: torch.as_tensor(column[i]) for name, column in self.columns.items()}


def batches_of(recipe: Recipe, rows: Rows, size: int = BATCH) -> Iterator[Any]:
    """What a worker of `recipe` trains on."""
    return MicroBatches(recipe, rows, 0, size, 0, 1, 1).steps(0, 10**9, num_processes=0, pin_memory=False)


def batches_per_second(batches: Iterator[Any], num_batches: int) -> float:
    """How fast batches come, after ten to warm up."""
    for _ in islice(batches, 10):
        pass
    began = time.perf_counter()
    got = sum(1 for _ in islice(batches, num_batches))
    return got / (time.perf_counter() - began)


def compare(what: str, ours: Callable[[], Iterator[Any]], others: dict[str, Callable[[], Iterator[Any]]]) -> None:
    """Print the speed of all, in turn, five times."""
    rounds = []
    for _ in range(5):
        rounds.append(
            [batches_per_second(ours(), 4000), *(batches_per_second(make(), 400) for make in others.values())]
        )
    mine, *theirs = zip(*rounds, strict=True)
    for name, speeds in zip(others, theirs, strict=True):
        medians = f"{statistics.median(mine):,.0f} / {statistics.median(speeds):,.0f}"
        print(
            f"batches/s of {BATCH} {what}, onehour / {name}: {ratio(list(mine), list(speeds))}; {medians}", flush=True
        )


def compare_all(what: str, recipe: Recipe, rows: Rows) -> None:
    """Print how fast batches of these rows come, beside the two others."""
    columns = {name: column.numpy() for name, column in rows[np.arange(len(rows))].items()}
    samples, in_ray = Samples(columns), ray.data.from_numpy(next(iter(columns.values()))).materialize()
    others = {
        "torch's DataLoader of single samples": lambda: iter(DataLoader(samples, BATCH, shuffle=True)),
        "Ray Data in order": lambda: iter(in_ray.iter_torch_batches(batch_size=BATCH)),
        "Ray Data shuffled": lambda: iter(in_ray.iter_torch_batches(batch_size=BATCH, local_shuffle_buffer_size=4096)),
    }
    compare(what, lambda: batches_of(recipe, rows), others)


def images(path: Path) -> Rows:
    """As many images as Fashion-MNIST has, of its size, of noise."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (60_000, 28, 28), np.uint8)
    write_rows(path, [{"image": pixels, "label": random.integers(0, 10, len(pixels))}])
    return Rows(path)


def open_much(path: Path) -> None:
    """Print what it takes to open a file of 10 GB, and to begin with a trillion samples."""
    rows = np.zeros((2**16, 257), np.uint8)
    write_rows(path, ({"tokens": rows} for _ in range(10_000_000_000 // rows.nbytes + 1)))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    large = Rows(path)
    seconds = time.perf_counter() - began
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    size = f"{path.stat().st_size / 1e9:.1f} GB, {len(large):,} rows"
    print(f"opening {size}: {1e3 * seconds:.1f} ms, {more:.1f} MB more memory")
    began = time.perf_counter()
    sample_at(np.arange(BATCH), 10**12, 0)
    print(f"the first batch of a shuffle of 10^12 samples: {1e3 * (time.perf_counter() - began):.2f} ms")


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    recipe = GPTRecipe()
    rows, config = prepare(recipe).train, recipe.defaults()
    with tempfile.TemporaryDirectory() as folder:
        open_much(Path(folder) / "large.arrow")
        with ray_cluster(None):
            ray.data.DataContext.get_current().enable_progress_bars = False
            compare_all("rows of 129 tokens", recipe, rows)
            compare_all("images of 28 x 28", Toy(), images(Path(folder) / "images.arrow"))
    waiting = 1 / batches_per_second(batches_of(recipe, rows, config.global_batch_size), 8000)
    *_, report = islice(train(recipe, config), 30)  # the reports of the first 300 steps; the last is warm
    step = config.global_batch_size / report.metrics["samples_per_second"]
    print(f"waiting for data: {1e3 * waiting:.3f} ms of a step of {1e3 * step:.1f} ms, {waiting / step:.2%}")


if __name__ == "__main__":
    main()
