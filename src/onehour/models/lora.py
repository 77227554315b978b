"""Low-rank adaptation: a pretrained matrix stays as it is, and what is learned beside it is a product of two narrow ones.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1. All linear layers of the blocks are
adapted, as Dettmers et al. 2023, "QLoRA", section 4 found necessary to learn as well as full fine-tuning does. The
numbers are those of peft (tests/models/test_lora.py); this is shorter than its use, and a worker need not import it.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Linear):
    """A linear layer W whose weights are frozen, and that computes with W + scale * B A: (..., in) to (..., out)."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float) -> None:
        nn.Module.__init__(self)  # the weights are those of `linear`, and none are drawn
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as peft does; B is zero, so training begins at W

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that computes the same."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight + self.scale * self.lora_b @ self.lora_a)
        linear.bias = self.bias
        return linear


def add_lora(model: nn.Module, layers: nn.ModuleList, rank: int, alpha: float) -> None:
    """Freeze `model`, and let the linear layers within `layers` learn matrices of rank `rank`, scaled by alpha / rank."""
    model.requires_grad_(False)
    for parent, name, linear in linear_layers(layers, nn.Linear):
        setattr(parent, name, LoRALinear(linear, rank, alpha / rank))


def merge_lora(model: nn.Module) -> None:
    """Turn every adapted layer of `model` into a plain one that computes the same."""
    for parent, name, linear in linear_layers(model, LoRALinear):
        setattr(parent, name, linear.merged())


def linear_layers(model: nn.Module, kind: type[nn.Linear]) -> list[tuple[nn.Module, str, Any]]:
    """The layers of a kind, each with the module that it stands in and its name there."""
    return [(parent, name, m) for parent in model.modules() for name, m in parent.named_children() if type(m) is kind]
