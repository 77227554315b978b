"""A step of a training without its arithmetic: how much memory it takes, to the byte.

The plan before each training has an estimate of its own (onehour.training.memory): this one takes seconds, and fails on a
recipe that looks at the numbers in its tensors.
"""

from dataclasses import replace

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from onehour.config import TrainConfig
from onehour.data.loader import num_micro_batches
from onehour.data.prepare import Data
from onehour.recipe import Batch, Recipe
from onehour.training.device import Worker
from onehour.training.layers import set_up_layers
from onehour.training.loop import one_step
from onehour.training.optim import build_optimizer

CPU = torch.device("cpu")
KINDS = {"weights": "PARAM", "gradients": "GRAD", "optimizer": "OPT"}


def peak_of_steps(recipe: Recipe, config: TrainConfig, data: Data) -> dict[str, int]:
    """The most bytes that the tensors of one worker alone take at a time: in all, and the parts of it at that moment.

    Two steps are done by tensors that have shapes and no numbers (torch's fake tensors), and what each operation takes
    and gives back is counted, so that the model may be larger than this machine. Parts: weights, gradients, optimizer,
    and activations, which is all the rest.
    """
    number = num_micro_batches(config, 1)
    size = config.global_batch_size // number
    rows = recipe.augment(data.train[np.arange(size) % len(data.train)], lambda n: torch.rand(size, n))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        model = recipe.begin(data.folder)
        set_up_layers(model, replace(config, compile=False), CPU)
        optimizer, tracker = build_optimizer(model, config), MemTracker()
        tracker.track_external(model, optimizer)
        batch: Batch = {name: fake.from_tensor(column) for name, column in rows.items()}
        if number > 1:
            optimizer.zero_grad = lambda: None  # type: ignore[assignment, misc]  # they are there when the next batch comes
        with tracker:
            for step in range(2):  # the optimizer's moments are made in the first one
                tracker.reset_mod_stats()
                one_step(recipe, model, optimizer, [batch], config, Worker(0, 1, CPU), step)
    peak = {str(kind): size for kind, size in tracker.get_tracker_snapshot("peak")[CPU].items()}
    parts = {name: peak[f"_MemRefType.{kind}"] for name, kind in KINDS.items()}
    return {"total": peak["Total"], **parts, "activations": peak["Total"] - sum(parts.values())}
