"""The loss of a language model, where the logits of a large vocabulary never exist all at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL_VOCABULARY = 4096  # the logits of a smaller one take no more memory than the layers do
LOGITS_AT_ONCE = 2**23  # of a larger one: 32 MB of float32, and 166 tokens of a vocabulary of 50,257


def token_losses(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy (...) of each target (...), when x (..., C) times weight (V, C) are the logits; float32.

    Of a large vocabulary, logits, their softmax and their gradients would take more memory than all else. There it is
    computed for a few tokens at a time, and once more in backward, by a function of torch: the same loss, for a third
    more arithmetic in this layer. Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models",
    https://arxiv.org/abs/2411.09009, goes on to blocks of the vocabulary.
    """
    rows, wanted = x.flatten(0, -2), targets.flatten()
    if len(weight) <= SMALL_VOCABULARY:
        losses = F.cross_entropy(F.linear(rows, weight).float(), wanted, reduction="none")
    else:
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=max(1, LOGITS_AT_ONCE // len(weight)))
        if torch.is_autocast_enabled(device := x.device.type):  # which does not reach into that function
            rows, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (rows, weight))
        losses = F.linear_cross_entropy(rows, weight, wanted, reduction="none", options=options).float()
    return losses.view_as(targets)
