"""The course's five points: two features, two classes, a network of 752 parameters. Trains in a second."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onehour.config import TrainConfig
from onehour.data.arrow import write_rows
from onehour.models.mlp import MLP
from onehour.recipe import Batch, Recipe

TRAIN = {
    "features": np.array([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]], np.float32),
    "label": np.array([0, 0, 0, 1, 1]),
}
TEST = {"features": np.array([[-0.8, 2.8], [2.6, -1.6]], np.float32), "label": np.array([0, 1])}


@dataclass(frozen=True)
class Toy(Recipe):
    """Five points of two classes, and a small network."""

    def defaults(self) -> TrainConfig:
        return TrainConfig(
            num_epochs=20, global_batch_size=2, optimizer="sgd", learning_rate=0.5, schedule="constant", clip=None,
            evaluate_every=10, log_every=1,
        )  # fmt: skip

    def space(self) -> dict[str, str]:
        return {"learning_rate": "log(1e-3, 1)", "momentum": "uniform(0, 0.9)"}

    def prepare(self, folder: Path) -> dict[str, Any]:
        write_rows(folder / "train.arrow", [TRAIN])
        write_rows(folder / "held_out.arrow", [TEST])
        return {"about": "5 points of 2 features in 2 classes"}

    def build_model(self) -> nn.Module:
        return MLP(2, [30, 20], 2)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch["features"]), batch["label"], reduction="none")

    def count(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch["features"])
        return {
            "loss": cross_entropy(logits, batch["label"], reduction="sum"),
            "accuracy": (logits.argmax(dim=1) == batch["label"]).sum(),
        }

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        probabilities = torch.softmax(model(batch["features"]), dim=1)
        return {"prediction": probabilities.argmax(dim=1), "probability": probabilities.amax(dim=1)}
