"""The same model, faster where it reads one token after another: on a CPU, in float32.

Reading one token takes every weight once, so the time is that of the matrices. They are kept here a second time, in the
order in which the processor wants them: what is multiplied with the same input stands in one matrix; for one sequence
the rows of a wide matrix are columns, so that it is read from beginning to end; for several, oneDNN lays it out. The
numbers are the same but for the order of additions.
"""

from collections.abc import Callable, Iterable
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
        self.layers = [Step(layer, batch_size) for layer in model.layers]  # type: ignore[arg-type]  # for one token each
        self.logits = product(model.embed_tokens if model.lm_head is None else model.lm_head, batch_size=batch_size)

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

    def __init__(self, block: Block, batch_size: int) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.block = block
        self.qkv = product(attention.q_proj, attention.k_proj, attention.v_proj, batch_size=batch_size)
        self.out = product(attention.o_proj, batch_size=batch_size)
        self.gate_up = product(mlp.gate_proj, mlp.up_proj, batch_size=batch_size)
        self.down = product(mlp.down_proj, batch_size=batch_size)

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


def product(*layers: nn.Linear | nn.Embedding, batch_size: int) -> Product:
    """The product with the matrices (N, K) of some layers, one below the other, for inputs (batch_size, K)."""
    weight = torch.cat([layer.weight.detach() for layer in layers]) if len(layers) > 1 else layers[0].weight.detach()
    if batch_size == 1:
        if weight.shape[0] <= weight.shape[1]:
            return lambda x: F.linear(x, weight)
        columns = weight.t().contiguous()
        return lambda x: x @ columns
    if not torch.backends.mkldnn.is_available():  # such as on a Mac
        return lambda x: F.linear(x, weight)
    one: Any = torch.ops.mkldnn
    packed = one._reorder_linear_weight(weight, batch_size)
    return lambda x: one._linear_pointwise(x, packed, None, "none", [], "")
