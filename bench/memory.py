"""How much memory a step takes, beside what onehour doctor --recipe works out: python bench/memory.py [--depths 4 6 12]

A process of its own takes two steps of gpt, once as it is and once with glibc told to give back freed blocks of 1 MB and
more (MALLOC_MMAP_THRESHOLD_); printed is how much its resident memory grew at most, and the seconds of its second step.
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
import torch

from onehour.data.prepare import prepare
from onehour.recipes.gpt import GPTRecipe
from onehour.training.device import Worker, peak_memory
from onehour.training.loop import one_step
from onehour.training.optim import build_optimizer
from onehour.training.simulate import peak_of_steps

WORKER = Worker(0, 1, torch.device("cpu"))


def two_steps(depth: int) -> float:
    """Seconds of the second step of gpt's default training at this depth."""
    recipe = GPTRecipe(depth=depth)
    config, rows = recipe.defaults(), prepare(recipe).train
    model = recipe.build_model()
    optimizer = build_optimizer(model, config)
    for step in range(2):
        began = time.perf_counter()
        one_step(recipe, model, optimizer, [rows[np.arange(config.global_batch_size)]], config, WORKER, step)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 6, 12])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        two_steps(1)  # what is loaded and kept once is not the training's
        before = peak_memory(WORKER.device)
        seconds = two_steps(arguments.child)
        print(peak_memory(WORKER.device) - before, seconds)
        return
    for depth in arguments.depths:
        recipe = GPTRecipe(depth=depth)
        told = peak_of_steps(recipe, recipe.defaults(), prepare(recipe))["total"]
        for name, setting in (("as it is", {}), ("giving back", {"MALLOC_MMAP_THRESHOLD_": str(2**20)})):
            command = [sys.executable, __file__, f"--child={depth}"]
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | setting
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            grown, seconds = map(float, done.stdout.split())
            print(f"depth {depth}, {name}: worked out / grown {told / grown:.3f} ({told / 1e6:,.0f} MB / {grown / 1e6:,.0f} MB); "
                  f"{seconds:.2f} s a step", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
