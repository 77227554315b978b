"""Handwritten digits: scikit-learn's 1,797 real ones, 8 x 8 pixels, and a small convolutional network."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from onehour.config import TrainConfig, check
from onehour.data.arrow import write_rows
from onehour.data.order import sample_at
from onehour.errors import InputError
from onehour.models.cnn import CNN
from onehour.recipe import Batch, Recipe


@dataclass(frozen=True)
class Digits(Recipe):
    """Handwritten digits, 8 x 8 pixels in 10 classes."""

    width: int = 32
    """Channels of the first convolution."""
    augmentation: float = 0.5
    """How far training images are moved, turned and scaled at random; 0 leaves them alone. 1 is much at 8 x 8 pixels."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 4 and value % 4 == 0, "a multiple of 4, for 4 groups of channels", "width")

    def defaults(self) -> TrainConfig:
        return TrainConfig(
            num_epochs=24, global_batch_size=60, learning_rate=3e-3, weight_decay=0.05, warmup_steps=20,
            evaluate_every=24,
        )  # fmt: skip

    def space(self) -> dict[str, str]:
        return {
            "learning_rate": "log(1e-4, 1e-1)",
            "weight_decay": "log(1e-3, 1)",
            "augmentation": "uniform(0, 1)",
            "width": "choice(16, 32)",
        }

    def fingerprint(self) -> str:
        return ""  # no option changes the data

    def prepare(self, folder: Path) -> dict[str, Any]:
        images, labels = load_digits()
        order = sample_at(np.arange(len(labels)), len(labels), seed=0)  # a fixed fifth is held out
        num_held_out = len(labels) // 5
        for name, ids in (("held_out", order[:num_held_out]), ("train", order[num_held_out:])):
            write_rows(folder / f"{name}.arrow", [{"image": images[ids], "label": labels[ids]}])
        return {"about": "scikit-learn's handwritten digits, 8 x 8 pixels"}

    def build_model(self) -> nn.Module:
        return CNN(self.width, num_classes=10)

    def augment(self, batch: Batch, uniform: Callable[[int], Tensor]) -> Batch:
        return batch | {"image": jiggle(batch["image"], uniform(5), self.augmentation)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch["image"]), batch["label"], reduction="none", label_smoothing=0.05)

    def count(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch["image"])
        return {
            "loss": cross_entropy(logits, batch["label"], reduction="sum"),
            "accuracy": (logits.argmax(dim=1) == batch["label"]).sum(),
        }

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        probabilities = torch.softmax(model(batch["image"]), dim=1)
        return {"prediction": probabilities.argmax(dim=1), "probability": probabilities.amax(dim=1)}


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 1, 8, 8) from 0 to 1 and labels (1797,), as scikit-learn ships them."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InputError(
            "The recipe digits reads its images from scikit-learn, which is not installed: "
            "pip install 'onehour[digits]'."
        ) from error
    images, labels = datasets.load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int64)


def jiggle(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Move, turn and scale images (B, 1, H, W) at random, by numbers in [0, 1) of shape (B, 5).

    At strength 1: up to 15 degrees either way, 15 % larger or smaller in each direction, and 1/8 of the image aside.
    """
    angle, scale_x, scale_y, move_x, move_y = (strength * (2 * uniform - 1)).unbind(dim=1)
    angle = angle * math.radians(15)
    rows = [
        torch.stack([angle.cos() * (1 + 0.15 * scale_x), -angle.sin(), 0.25 * move_x], dim=1),
        torch.stack([angle.sin(), angle.cos() * (1 + 0.15 * scale_y), 0.25 * move_y], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)
