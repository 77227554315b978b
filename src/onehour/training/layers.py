"""A model's layers: what they keep for backward, and whether they are compiled."""

import shutil
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from onehour.config import TrainConfig
from onehour.errors import InputError


def set_up_layers(model: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Let the layers of a model that is on `device` save memory, or be compiled, as `config` says.

    Raises:
        InputError: the model, or the machine, has not what that takes.
    """
    if config.activation_checkpointing:
        checkpoint_layers(model)
    if config.compile:
        compile_layers(model, device)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """What stands in a ModuleList of the model, from first to last."""
    return [layer for module in model.modules() if isinstance(module, nn.ModuleList) for layer in module]


def checkpoint_layers(model: nn.Module) -> None:
    """Let each layer keep nothing but its input, and compute the rest once more when backward comes to it.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174, section 4: a third
    more arithmetic for the memory of one layer in place of all. What is drawn in between (dropout) is drawn alike again.

    Raises:
        InputError: the model has no layers.
    """
    if not layers_of(model):
        raise InputError(
            "--activation-checkpointing is for layers in a ModuleList, and the model has none; leave it away, or try a "
            "smaller --micro-batch-size."
        )
    for layer in layers_of(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(model: nn.Module, device: torch.device) -> None:
    """Let torch.compile turn each layer (what stands in a ModuleList; without one, the model) into fused code when it runs.

    Layers of one shape share their code, so that the time this takes does not grow with their number. The module stays
    what it is: the names in a checkpoint do not change.

    Raises:
        InputError: a CPU takes a C++ compiler, and there is none.
    """
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
        raise InputError("--compile takes a C++ compiler, and neither g++ nor clang++ is found here; install one.")
    for layer in layers_of(model) or [model]:
        layer.compile()
