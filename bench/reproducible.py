"""What equal bits cost: python bench/reproducible.py [--workers 2] [--rounds 9]

Step time of --reproducible beside DistributedDataParallel with the same micro-batches, in the same processes of one
thread each, in turn. The model is gpt's default; global batches of 8 and 32, each of 8 micro-batches.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time

import torch

from onehour.config import TrainConfig
from onehour.data.loader import MicroBatches, num_micro_batches
from onehour.data.prepare import prepare
from onehour.recipes.gpt import GPTRecipe
from onehour.training.device import this_worker
from onehour.training.loop import one_step
from onehour.training.optim import build_optimizer
from onehour.training.parallel import parallelize
from onehour.training.reproducible import add_in_pairs
from watch import TORCHRUN, ratio

STEPS = 10  # of one before the other's turn


class Training:
    """The steps of one training, a few at a time."""

    def __init__(self, config: TrainConfig) -> None:
        self.recipe, self.config, self.worker = GPTRecipe(), config, this_worker(config)
        micro_batches = num_micro_batches(config, self.worker.world_size)
        model = self.recipe.build_model()
        self.model = parallelize(model, "auto", self.worker)
        if config.reproducible:
            add_in_pairs(self.model, micro_batches, self.worker)
        self.optimizer = build_optimizer(model, config)
        data = prepare(self.recipe).train
        order = MicroBatches(
            self.recipe,
            data,
            config.seed,
            config.global_batch_size,
            self.worker.rank,
            self.worker.world_size,
            micro_batches,
        )
        self.batches = order.steps(0, 10**6, 0, pin_memory=False)

    def seconds(self) -> float:
        """Of one step, over STEPS of them."""
        began = time.perf_counter()
        for step in range(STEPS):
            batch = next(self.batches)
            one_step(self.recipe, self.model, self.optimizer, batch, self.config, self.worker, step)
        return (time.perf_counter() - began) / STEPS


def measure(rounds: int) -> None:
    """What each worker does; rank 0 prints."""
    torch.set_num_threads(1)
    for total in (8, 32):
        config = dataclasses.replace(GPTRecipe().defaults(), global_batch_size=total, micro_batch_size=total // 8)
        plain, exact = Training(config), Training(dataclasses.replace(config, reproducible=True))
        plain.seconds(), exact.seconds()  # warm
        pairs = [(exact.seconds(), plain.seconds()) for _ in range(rounds)]
        if plain.worker.rank == 0:
            print(json.dumps([total, pairs]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        measure(arguments.rounds)
        return
    command = [sys.executable, *TORCHRUN, str(arguments.workers), __file__, f"--rounds={arguments.rounds}"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    for total, pairs in map(json.loads, done.stdout.splitlines()):
        exact, plain = ([pair[i] for pair in pairs] for i in (0, 1))
        print(f"step time, {arguments.workers} workers, global batch {total}, --reproducible / plain: "
              f"{ratio(exact, plain)}; {1e3 * min(exact):.1f} ms / {1e3 * min(plain):.1f} ms at best")  # fmt: skip


if __name__ == "__main__":
    main()
