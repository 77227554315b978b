"""What checkpoints cost: python bench/checkpoint.py [--rounds 5] [--depth 4]

Training throughput with a checkpoint every 20 steps / without any, gpt in this process, in interleaved pairs. The time
is that of the whole loop, so what a checkpoint takes from the steps after it counts, too.
"""

import argparse
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path

from onehour.recipes.gpt import GPTRecipe
from onehour.training.keep import keep
from onehour.training.loop import train
from onehour.training.run import create_run
from watch import ratio

STEPS = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=4)
    arguments = parser.parse_args()
    recipe = GPTRecipe(depth=arguments.depth)
    speeds: dict[int | None, list[float]] = {20: [], None: []}
    for _ in range(arguments.rounds):
        for every, measured in speeds.items():
            measured.append(steps_per_second(recipe, every))
    num_parameters = sum(p.numel() for p in recipe.build_model().parameters())
    print(f"throughput with a checkpoint every 20 steps / without, {num_parameters:,} parameters: "
          f"{ratio(speeds[20], speeds[None])}; {max(speeds[20]):.2f} / {max(speeds[None]):.2f} steps/s at best")  # fmt: skip


def steps_per_second(recipe: GPTRecipe, every: int | None) -> float:
    """Steps per second of a training that saves every so many steps; the first 20 steps do not count."""
    config = dataclasses.replace(
        recipe.defaults(), num_steps=STEPS + 20, log_every=20, evaluate_every=10**9, checkpoint_every=every
    )
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder), None, "gpt")
        began = 0.0
        for report in keep(train(recipe, config), run, 1):
            if report.step == 20:
                began = time.perf_counter()
            if report.step == STEPS:
                ended = time.perf_counter()
        shutil.rmtree(folder, ignore_errors=True)
    return (STEPS - 20) / (ended - began)


if __name__ == "__main__":
    main()
