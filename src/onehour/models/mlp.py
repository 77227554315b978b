"""A multilayer perceptron: linear layers with a non-linearity between them."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers from `num_inputs` by the `hidden` widths to `num_outputs`, with ReLU between them.

    `MLP(2, [30, 20], 2)` has 752 parameters, `MLP(50, [30, 20], 3)` has 2,213.
    """

    def __init__(self, num_inputs: int, hidden: Sequence[int], num_outputs: int) -> None:
        super().__init__()
        widths = [num_inputs, *hidden, num_outputs]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_inputs) -> logits (B, num_outputs)."""
        return self.layers(x)  # type: ignore[no-any-return]
