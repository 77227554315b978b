"""A language model's layers, and a head that says which class a text is of."""

import torch
from torch import Tensor, nn

from onehour.models.gpt import GPT


class Classifier(nn.Module):
    """Tokens (B, T) of texts of different lengths (B,) to logits (B, num_classes).

    The head reads the mean of what the layers make of a text's tokens. A token attends to earlier ones only, so what fills
    a row after the end of its text changes nothing.
    """

    def __init__(self, backbone: GPT, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.width, num_classes)

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        x = self.backbone.read(tokens)
        real = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        mean = (x * real[..., None]).sum(dim=1) / length[:, None]
        return self.head(mean).float()  # type: ignore[no-any-return]


def confusion(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """How often a sample of the class of a row was taken for that of a column: (num_classes, num_classes)."""
    both = labels.long() * num_classes + predictions
    return torch.bincount(both, minlength=num_classes**2).view(num_classes, num_classes)
