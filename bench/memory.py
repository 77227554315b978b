"""How much memory a step takes, beside what is worked out: python bench/memory.py [--depths 4 6 12]

A process of its own takes two steps of gpt, once as it is and once with glibc told to give back freed blocks of 1 MB and
more (MALLOC_MMAP_THRESHOLD_); printed is how much its resident memory grew at most, beside the sum that the plan prints
and the peak that onehour doctor --recipe works out, and the processor's seconds in the second step. At the first depth
also with a vocabulary of 50,257, and there with the logits of all tokens at once, too.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onehour.data.prepare import prepare
from onehour.recipe import Batch
from onehour.recipes.gpt import GPTRecipe
from onehour.training.device import Worker, peak_memory
from onehour.training.loop import one_step
from onehour.training.memory import estimate_memory
from onehour.training.optim import build_optimizer
from onehour.training.simulate import peak_of_steps

WORKER = Worker(0, 1, torch.device("cpu"))
DATA = prepare(GPTRecipe())  # bytes, which any vocabulary has: how much memory they take does not depend on it
LARGE = 50_257


@dataclass(frozen=True)
class AtOnce(GPTRecipe):
    """The same training by way of all logits."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        tokens = batch["tokens"].long()
        losses = cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return losses.view(len(tokens), -1).mean(dim=1)


def two_steps(recipe: GPTRecipe) -> float:
    """The processor's seconds in the second step of this recipe's default training."""
    config, model = recipe.defaults(), recipe.build_model()
    optimizer = build_optimizer(model, config)
    for step in range(2):
        began = time.process_time()
        batch = DATA.train[np.arange(config.global_batch_size)]
        one_step(recipe, model, optimizer, [batch], config, WORKER, step)
    return time.process_time() - began


def child(recipe: GPTRecipe) -> None:
    """Train in this process, and print how much it grew, the seconds of a step, and both that were worked out."""
    two_steps(replace(recipe, depth=1, vocab_size=256))  # what is loaded and kept once is not the training's
    before = peak_memory(WORKER.device)
    seconds, config = two_steps(recipe), recipe.defaults()
    grown = peak_memory(WORKER.device) - before
    plan = estimate_memory(recipe, recipe.build_model(), config, DATA.train, config.global_batch_size).total
    print(grown, seconds, plan, peak_of_steps(recipe, config, DATA)["total"])


def measure(recipe: GPTRecipe) -> None:
    """Print how much a process grew that trains so. This one stays small: a child begins with its parent's peak."""
    what = f"depth {recipe.depth}, vocabulary {recipe.vocab_size:,}{', logits at once' * (type(recipe) is AtOnce)}"
    for name, setting in (("as it is", {}), ("giving back", {"MALLOC_MMAP_THRESHOLD_": str(2**20)})):
        options = [type(recipe).__name__, str(recipe.depth), str(recipe.vocab_size)]
        command = [sys.executable, __file__, "--child", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | setting
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        grown, seconds, plan, worked_out = map(float, done.stdout.split())
        print(f"{what}, {name}: grown / plan {grown / plan:.3f} ({grown / 1e6:,.0f} MB / {plan / 1e6:,.0f} MB), "
              f"grown / worked out {grown / worked_out:.3f}; {seconds:.2f} s a step", flush=True)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 6, 12])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, depth, vocab_size = arguments.child
        child({"AtOnce": AtOnce, "GPTRecipe": GPTRecipe}[kind](depth=int(depth), vocab_size=int(vocab_size)))
        return
    for depth in arguments.depths:
        measure(GPTRecipe(depth=depth))
    for kind in (GPTRecipe, AtOnce):
        measure(kind(depth=arguments.depths[0], vocab_size=LARGE))


if __name__ == "__main__":
    main()
