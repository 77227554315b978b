"""The same model, faster where it reads one token after another: on a CPU, in float32.

Reading one token takes every weight once, so the time is that of the matrices. They are kept here a second time, in the
order in which the processor wants them: what is multiplied with the same input stands in one matrix; for one sequence
the rows of a wide matrix are columns, so that it is read from beginning to end; for several, oneDNN lays it out. The
numbers are the same but for the order of additions.
"""

import mmap
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onehour.models.gpt import GPT, Attention, Block, Cache, Rotary, rotary_tables, rotate

Product = Callable[[Tensor], Tensor]  # x (B, K) to x W^T (B, N)


class Decoder:
    """What `GPT` computes, for sequences that grow token by token: call it as the model is called, with a cache."""

    def __init__(self, model: GPT, batch_size: int) -> None:
        self.model, self.config = model, model.config
        room = Room(sum(parameter.numel() for parameter in model.parameters())) if batch_size == 1 else None
        product = partial(product_with, batch_size=batch_size, room=room)
        self.layers = [Step(layer, product) for layer in model.layers]  # type: ignore[arg-type]  # for one token each
        self.logits = product(model.embed_tokens if model.lm_head is None else model.lm_head)

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
        return self.logits(self.model.norm(last))[:, None]


class Step:
    """What `Block` computes for one token of each sequence: (B, C) to (B, C)."""

    def __init__(self, block: Block, product: Callable[..., Product]) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.block = block
        self.qkv = product(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = product(attention.o_proj)
        self.gate_up = product(mlp.gate_proj, mlp.up_proj)
        self.down = product(mlp.down_proj)

    def __call__(self, x: Tensor, rotary: Rotary, mask: Tensor | None, layer: int, cache: Cache) -> Tensor:
        attention: Attention = self.block.self_attn
        kv_heads = cache.keys.shape[2]
        heads = self.qkv(self.block.input_layernorm(x)).view(len(x), -1, 1, attention.head_width)
        turned = rotate(heads[:, :-kv_heads], *rotary)
        k, v = cache.append(layer, turned[:, -kv_heads:], heads[:, -kv_heads:])
        q = turned[:, :-kv_heads]
        y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=attention.shares_kv_heads)
        x = x + self.out(y.flatten(1))
        gate, up = self.gate_up(self.block.post_attention_layernorm(x)).chunk(2, dim=1)
        return x + self.down(F.silu(gate) * up)


class Room:
    """Memory in one piece and, where the system has them, in large pages: reading it all loses fewer page look-ups."""

    def __init__(self, size: int) -> None:
        memory = mmap.mmap(-1, 4 * size)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a system without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        self.left = torch.frombuffer(memory, dtype=torch.float32)

    def keep(self, matrix: Tensor) -> Tensor:
        """A copy of the matrix there, row after row."""
        place, self.left = self.left.split((matrix.numel(), len(self.left) - matrix.numel()))
        kept: Tensor = place.view(matrix.shape).copy_(matrix)
        return kept


def product_with(*layers: nn.Linear | nn.Embedding, batch_size: int, room: Room | None) -> Product:
    """The product with the matrices (N, K) of some layers, one below the other, for inputs (batch_size, K)."""
    weight = torch.cat([layer.weight.detach() for layer in layers]) if len(layers) > 1 else layers[0].weight.detach()
    if room is not None:
        wide = weight.shape[0] > weight.shape[1]
        matrix = room.keep(weight.t() if wide else weight)
        return (lambda x: x @ matrix) if wide else (lambda x: F.linear(x, matrix))
    if not torch.backends.mkldnn.is_available():  # such as on a Mac
        return lambda x: F.linear(x, weight)
    one: Any = torch.ops.mkldnn
    packed = one._reorder_linear_weight(weight, max(batch_size, 16))  # that of 16 rows is also the faster one for 8
    return lambda x: one._linear_pointwise(x, packed, None, "none", [], "")
