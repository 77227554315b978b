"""The same model, faster where it reads one token after another: on a CPU, in float32.

Reading one token takes every weight once, so the time is that of the matrices. They are kept here a second time, in the
order in which the processor wants them: what is multiplied with the same input stands in one matrix; for one sequence
the rows of a wide matrix are columns, so that it is read from beginning to end; for several, oneDNN lays it out. The
numbers by which RMSNorm multiplies are multiplied into the matrix behind it. What comes out is the same but for rounding.
"""

import mmap
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onehour.models.gpt import GPT, Block, Cache, Rotary, rotary_tables, rotate

Product = Callable[[Tensor], Tensor]  # x (B, K) to x W^T (B, N)


class Decoder:
    """What `GPT` computes, for sequences that grow token by token: call it as the model is called, with a cache."""

    def __init__(self, model: GPT, batch_size: int) -> None:
        self.model, self.config = model, model.config
        room = Room(sum(parameter.numel() for parameter in model.parameters())) if batch_size == 1 else None
        product = partial(product_with, batch_size=batch_size, room=room)
        self.layers = [Step(layer, product) for layer in model.layers]  # type: ignore[arg-type]  # for one token each
        self.logits = product(model.embed_tokens if model.lm_head is None else model.lm_head, norm=model.norm)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Integer tokens (B, T) that follow those in the cache, to the logits (B, 1, V) of the token after the last."""
        num_tokens = tokens.shape[1]
        positions, mask = cache.places(num_tokens)
        rotary = rotary_tables(positions, self.config)
        x = self.model.embed_tokens(tokens if num_tokens > 1 else tokens[:, 0])
        layers: Iterable[Any] = self.model.layers if num_tokens > 1 else self.layers
        for i, layer in enumerate(layers):
            x = layer(x, rotary, mask, i, cache)
        cache.length += num_tokens
        last = x[:, -1] if num_tokens > 1 else x
        return self.logits(last)[:, None]


class Step:
    """What `Block` computes for one token of each sequence: (B, C) to (B, C)."""

    def __init__(self, block: Block, product: Callable[..., Product]) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.head_width = attention.head_width
        self.qkv = product(attention.q_proj, attention.k_proj, attention.v_proj, norm=block.input_layernorm)
        self.out = product(attention.o_proj)
        self.gate_up = product(mlp.gate_proj, mlp.up_proj, norm=block.post_attention_layernorm)
        self.down = product(mlp.down_proj)

    def __call__(self, x: Tensor, rotary: Rotary, mask: Tensor | None, layer: int, cache: Cache) -> Tensor:
        batch_size, kv_heads = len(x), cache.keys.shape[2]
        heads = self.qkv(x).view(batch_size, -1, 1, self.head_width)
        turned = rotate(heads[:, :-kv_heads], *rotary)
        k, v = cache.append(layer, turned[:, -kv_heads:], heads[:, -kv_heads:])
        # The queries that share a key-value head stand where those of several tokens would: each sees the same keys.
        q = turned[:, :-kv_heads].reshape(batch_size, kv_heads, -1, self.head_width)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, mask).flatten(1))
        gate, up = self.gate_up(x).chunk(2, dim=1)
        return x + self.down(F.silu(gate) * up)


class Room:
    """Memory in one piece and, where the system has them, in large pages: reading it all loses fewer page look-ups."""

    def __init__(self, size: int) -> None:
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            self.left = torch.empty(size)
            return
        memory = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has small pages
        with suppress(OSError):  # a system that was built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.left = torch.frombuffer(memory, dtype=torch.float32)

    def keep(self, matrix: Tensor) -> Tensor:
        """A copy of the matrix there, row after row."""
        place, self.left = self.left.split((matrix.numel(), len(self.left) - matrix.numel()))
        kept: Tensor = place.view(matrix.shape).copy_(matrix)
        return kept


def product_with(
    *layers: nn.Linear | nn.Embedding, batch_size: int, room: Room | None, norm: nn.RMSNorm | None = None
) -> Product:
    """The product with the matrices (N, K) of some layers, one below the other, for inputs (batch_size, K) after `norm`."""
    weight = torch.cat([layer.weight.detach() for layer in layers]) if len(layers) > 1 else layers[0].weight.detach()
    if norm is None:
        return product_of(weight, batch_size, room)
    # x / sqrt(mean(x^2) + eps) is sqrt(K) x / sqrt(|x|^2 + K eps), and the latter root is the hypotenuse of two sides.
    width = norm.weight.numel()
    product = product_of(weight * (norm.weight.detach() * width**0.5), batch_size, room)
    side = torch.tensor((width * norm.eps) ** 0.5)  # type: ignore[operator]
    return lambda x: product(x / torch.hypot(torch.linalg.vector_norm(x, dim=1, keepdim=True), side))


def product_of(weight: Tensor, batch_size: int, room: Room | None) -> Product:
    """The product with a matrix (N, K) for inputs (batch_size, K)."""
    if room is not None:
        wide = weight.shape[0] > weight.shape[1]
        matrix = room.keep(weight.t() if wide else weight)
        return (lambda x: x @ matrix) if wide else (lambda x: F.linear(x, matrix))
    if not torch.backends.mkldnn.is_available():  # such as on a Mac
        return lambda x: F.linear(x, weight)
    one: Any = torch.ops.mkldnn
    packed = one._reorder_linear_weight(weight, max(batch_size, 16))  # that of 16 rows is also the faster one for 8
    return lambda x: one._linear_pointwise(x, packed, None, "none", [], "")
