"""Text from a trained model, one token at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from onehour.errors import InputError
from onehour.models.decoding import Decoder
from onehour.models.gpt import GPT, Cache


@torch.no_grad()
def generate(
    model: GPT | Decoder,
    tokens: Tensor,
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    padding: Tensor | None = None,
    cache: Cache | None = None,
) -> Iterator[Tensor]:
    """Continue integer tokens (B, T) by `num_tokens`; yield each next token (B,) as soon as it is chosen.

    Sequences of different lengths end together: the first `padding` (B,) tokens of each stand for nothing.

    A `cache` that `begun` made holds the beginning of the tokens, and they are read from there on. It may be given to
    `begun` again, at any time.

    The text may grow longer than the model's context. When the cache is full, the model forgets all but the last half
    context of the text, reads that anew, and goes on: one such reading for each half context of new tokens.
    """
    if tokens.shape[1] == 0:
        raise InputError("There is no token to continue: begin with at least one.")
    context = model.config.context
    cache = cache or begun(model, tokens, num_tokens)
    cache.text = tokens[:, -context:]
    cache.padding = fewer(padding, tokens.shape[1] - cache.text.shape[1])
    unread = cache.text[:, cache.length :]
    for _ in range(num_tokens):
        if cache.length == context:
            cache.length = 0
            cache.text = unread = cache.text[:, -(context // 2) :]
            cache.padding = fewer(cache.padding, context + 1 - unread.shape[1])  # the newest token was not read yet
        token = choose(model(unread, cache)[:, -1], temperature, top_k, generator)
        unread = token[:, None]
        cache.text = torch.cat((cache.text, unread), dim=1)
        yield token


def begun(model: GPT | Decoder, tokens: Tensor, num_tokens: int, before: Cache | None = None) -> Cache:
    """A cache with room for tokens (B, T) and as many more, which holds what the one `before` it does of their beginning.

    At least the last token is left to be read, for what follows it. The cache before, without padding, stays as it is.
    """
    network = model.model if isinstance(model, Decoder) else model
    text = tokens[:, -network.config.context :]
    cache = Cache.for_model(network, len(text), min(network.config.context, tokens.shape[1] + num_tokens))
    if before is not None and before.text is not None:
        most = min(before.length, text.shape[1] - 1)
        same = (before.text[:, :most] == text[:, :most]).all(dim=0)
        cache.length = common = int(same.cumprod(dim=0).sum())
        cache.keys[..., :common, :] = before.keys[..., :common, :]
        cache.values[..., :common, :] = before.values[..., :common, :]
    return cache


def fewer(padding: Tensor | None, dropped: int) -> Tensor | None:
    """What is left of the padding when so many first tokens are dropped; None where none is left."""
    left = None if padding is None else (padding - dropped).clamp(min=0)
    return left if left is not None and left.any() else None


def side_by_side(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Texts of different lengths as tokens (B, T) that end together, and how many zeros stand before each (B,)."""
    length = max(map(len, texts))
    padding = torch.tensor([length - len(text) for text in texts])
    return torch.tensor([[0] * (length - len(text)) + list(text) for text in texts]), padding


def choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """Draw one token (B,) from logits (B, V): the likeliest at temperature 0, else at random among the `top_k`.

    A temperature below 1 sharpens the distribution, above 1 flattens it. Keeping the k likeliest: Fan et al. 2018,
    "Hierarchical Neural Story Generation", section 5.4.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator).squeeze(1)
