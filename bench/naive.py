"""A training on Ray as its documentation writes it: python bench/naive.py FOLDER NAME NUM_STEPS

launch.py measures it beside onehour: ray.train.torch's trainer with its defaults, a line of FOLDER/NAME/metrics.jsonl
for each step, and the model and the batches of the toy recipe.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchTrainer
from torch import nn


def train_loop(config: dict[str, Any]) -> None:
    """What each worker does."""
    model = ray.train.torch.prepare_model(
        nn.Sequential(nn.Linear(2, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 2))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with open(config["metrics"], "w") as file:
        for step in range(config["num_steps"]):
            began = time.perf_counter()
            loss = nn.functional.cross_entropy(model(torch.randn(2, 2)), torch.tensor([0, 1]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            speed = 2 / (time.perf_counter() - began)
            print(json.dumps({"step": step, "loss": loss.item(), "samples_per_second": speed}), file=file, flush=True)
    ray.train.report({"loss": loss.item()})


def main() -> None:
    """Train with one worker."""
    folder, name, num_steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    (folder / name).mkdir()
    config = {"metrics": str(folder / name / "metrics.jsonl"), "num_steps": num_steps}
    scaling, run = (
        ray.train.ScalingConfig(num_workers=1),
        ray.train.RunConfig(storage_path=str(folder), name=f"{name}-ray"),
    )
    TorchTrainer(train_loop, train_loop_config=config, scaling_config=scaling, run_config=run).fit()


if __name__ == "__main__":
    main()
