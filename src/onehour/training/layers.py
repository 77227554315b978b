"""A model's layers, and what they keep for backward."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from onehour.errors import InputError


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
