"""The optimizer, and the learning rate as a pure function of the step."""

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from onehour.config import TrainConfig
from onehour.errors import InputError
from onehour.training.layers import layers_of
from onehour.training.muon import Muon


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), SGD or Muon over the model's parameters.

    Only matrices and convolutions (two or more dimensions) decay: pulling a norm's gain or a bias towards zero makes
    the model worse, not simpler. Muon is for the matrices inside the layers; embedding, output and vectors have AdamW.

    Raises:
        InputError: Muon was asked for, and the model has no layers in a ModuleList.
    """
    matrices = layer_matrices(model) if config.optimizer == "muon" else []
    taken = {id(p) for p in matrices}
    parameters = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    return Muon(matrices, groups, betas, config.learning_rate, config.weight_decay, dtype, config.reproducible)


def layer_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained matrices of a model's layers, which are what stands in a ModuleList.

    Raises:
        InputError: there are none.
    """
    matrices = {id(p): p for layer in layers_of(model) for p in layer.parameters() if p.dim() == 2 and p.requires_grad}
    if not matrices:
        raise InputError(
            "--optimizer muon is for matrices in the layers of a ModuleList; the model has none: use adamw."
        )
    return list(matrices.values())


def learning_rate_at(step: int, num_steps: int, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 0) of `num_steps`: a linear warm-up, then the schedule down to zero.

    It keeps no state, so there is nothing to save and nothing that resuming could get wrong.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left = 1 - (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    factor = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}[config.schedule]
    return config.learning_rate * factor


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give all parameter groups this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
