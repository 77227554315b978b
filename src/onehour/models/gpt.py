"""A small Llama: the language model that the course trains, from its embedding to its logits.

The parameters carry the names of Hugging Face's `LlamaForCausalLM` (see `huggingface_name`), so weights travel both
ways. Shapes: B sequences, T tokens, C = width, H heads of D = C / H numbers, V = vocab_size.

Sources: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models", section 2.2, for the whole;
the paper of each part stands at the part.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onehour.errors import InputError
from onehour.models.loss import token_losses

Rotary = tuple[Tensor, Tensor]  # cosine and sine: see rotary_tables


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3.1 turns its slow rotary pairs yet slower, to read texts longer than those it was first trained on.

    Grattafiori et al. 2024, "The Llama 3 Herd of Models", section 3.4.2; the formula is in Meta's code: a pair that turns
    less than `low_frequency` times in `context` tokens is slowed by `factor`, one that turns more than `high_frequency`
    times not at all, and one between them by something between.
    """

    factor: float
    low_frequency: float
    high_frequency: float
    context: int

    def slowed(self, frequencies: Tensor) -> Tensor:
        """Angles per token of each pair (D / 2,), slowed."""
        turns = self.context * frequencies / (2 * math.pi)
        kept = ((turns - self.low_frequency) / (self.high_frequency - self.low_frequency)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a `GPT`. `GPTConfig.from_depth` derives all of it from one number."""

    vocab_size: int = 256  # number of different tokens; 256 when tokens are bytes
    context: int = 256  # the longest sequence the model reads
    num_layers: int = 2  # blocks, each attention then MLP
    width: int = 128  # C, the numbers that stand for one token between blocks
    num_heads: int = 4  # query heads of attention
    num_kv_heads: int = 2  # key and value heads; each serves num_heads / num_kv_heads query heads
    hidden_width: int = 352  # numbers inside the MLP
    rope_theta: float = 10000.0  # the slowest rotary pair turns once in about 2 pi * rope_theta tokens
    rope_scaling: RopeScaling | None = None  # of a model that reads longer texts than it was first trained on
    norm_eps: float = 1e-5  # keeps RMSNorm from dividing by zero
    tied: bool = False  # the embedding's matrix also computes the logits

    def __post_init__(self) -> None:
        if self.width % (2 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise InputError(
                f"width={self.width}, num_heads={self.num_heads} and num_kv_heads={self.num_kv_heads} do not fit: "
                "choose a width that is a multiple of 2 * num_heads, and num_heads a multiple of num_kv_heads."
            )

    @classmethod
    def from_depth(cls, depth: int, **overrides: Any) -> "GPTConfig":
        """The one dial: `depth` layers, 64 * depth wide, and the rest follows. Name a field to override it.

        Heads are 32 numbers wide, two query heads share one key-value head, and the MLP's hidden width is 8/3 of the
        width (Shazeer 2020, section 3), rounded up to a multiple of 32.
        """
        width = 64 * depth
        shape: dict[str, Any] = dict(num_layers=depth, width=width, num_heads=2 * depth, num_kv_heads=depth)
        shape["hidden_width"] = -(-width * 8 // 3 // 32) * 32
        return cls(**(shape | overrides))

    @property
    def head_width(self) -> int:
        """D, the numbers of one head."""
        return self.width // self.num_heads


@dataclass
class Cache:
    """The keys and values of the tokens that were already read, so that generation reads each token once."""

    keys: Tensor  # (num_layers, B, num_kv_heads, max_length, D)
    values: Tensor  # (num_layers, B, num_kv_heads, max_length, D)
    length: int = 0  # how many tokens it holds; set it to 0 to begin again
    padding: Tensor | None = None  # (B,) how many of the first tokens of each sequence stand for nothing
    text: Tensor | None = None  # (B, T) the tokens that it holds, and perhaps more, where generate writes them down

    @classmethod
    def for_model(cls, model: "GPT", batch_size: int, length: int | None = None) -> "Cache":
        """An empty cache for `batch_size` sequences of up to `length` tokens, or `context`, on the model's device."""
        config = model.config
        shape = (config.num_layers, batch_size, config.num_kv_heads, length or config.context, config.head_width)
        weight = model.embed_tokens.weight
        return cls(weight.new_empty(shape), weight.new_empty(shape))

    def places(self, num_tokens: int) -> tuple[Tensor, Tensor | None]:
        """The positions of the tokens that come next, and which tokens, old and new, each of them sees.

        Positions are (T,), or (B, 1, T) with padding; the mask is (T, L) or (B, 1, T, L), and None where nothing but
        later tokens is hidden from a token that is read from the beginning, or nothing at all from one token.
        """
        all_places = torch.arange(self.length + num_tokens, device=self.keys.device)
        places = all_places[self.length :]
        if self.padding is None:
            alone = self.length == 0 or num_tokens == 1
            return places, None if alone else all_places <= places[:, None]
        begin = self.padding[:, None]
        # What stands for nothing sees itself: softmax over nothing at all would be no number, and spread.
        real = (all_places >= begin)[:, None] | (places < begin)[:, :, None]
        return (places - begin).clamp(min=0)[:, None], (real & (all_places <= places[:, None]))[:, None]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values (B, num_kv_heads, T, D); return all of that layer, old and new."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def rotary_frequencies(config: GPTConfig, device: torch.device | None = None) -> Tensor:
    """The angle per token of each rotary pair (D / 2,), from fast to slow."""
    width = config.head_width
    frequencies = config.rope_theta ** (-torch.arange(0, width, 2, device=device) / width)
    return frequencies if config.rope_scaling is None else config.rope_scaling.slowed(frequencies)


def rotary_tables(positions: Tensor, config: GPTConfig) -> Rotary:
    """Cosine and sine, each (..., T, D), of the angle by which each position (..., T) turns each number of a head.

    Su et al. 2021, "RoFormer", section 3.2.2. Number i is paired with number i + D/2, as in Hugging Face's Llama
    (the paper pairs 2i with 2i + 1; the two differ by a permutation of the weights' rows).
    """
    frequencies = rotary_frequencies(config, positions.device)
    angles = (positions[..., None] * frequencies).repeat(*[1] * positions.ndim, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of numbers of x (B, H, T, D) by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).type_as(x)


class Attention(nn.Module):
    """Causal self-attention in which several query heads share a key-value head: (B, T, C) to (B, T, C).

    Vaswani et al. 2017, "Attention Is All You Need", section 3.2; Ainslie et al. 2023, "GQA", section 2.2.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.shares_kv_heads = config.num_kv_heads < config.num_heads
        kv_width = config.num_kv_heads * config.head_width
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, kv_width, bias=False)
        self.v_proj = nn.Linear(config.width, kv_width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None, layer: int, cache: Cache | None) -> Tensor:
        q, k, v = (self.split_heads(projection(x)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        causal = mask is None and q.shape[2] > 1  # one token alone, the last one, sees all that the cache holds
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=self.shares_kv_heads)
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, H * D) to (B, H, T, D)."""
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU: (B, T, C) to (B, T, C). Shazeer 2020, "GLU Variants Improve Transformer", equation 6."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden_width, bias=False)
        self.down_proj = nn.Linear(config.hidden_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One layer: attention, then MLP, each on normalized input and added to what came in. (B, T, C) to (B, T, C).

    Normalizing before each part: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture",
    section 3; RMSNorm: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", section 4.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None, layer: int, cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask, layer, cache)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class GPT(nn.Module):
    """Tokens (B, T) to the logits (B, T, V) of each next token.

    >>> model = GPT(GPTConfig.from_depth(4))
    >>> model(torch.zeros(1, 8, dtype=torch.long)).shape
    torch.Size([1, 8, 256])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        # A tied model has no second matrix at all, so that a checkpoint never holds the same numbers twice.
        self.lm_head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw all weights anew from torch's random state, also after `to_empty` brought a meta model to a device.

        Matrices are normal with deviation 1 / sqrt(width), so that a normalized input keeps its size (LeCun et al.
        1998, "Efficient BackProp", section 4.6). The two projections of a layer that add to the residual stream are
        smaller by sqrt(2 * num_layers), so that the stream's size does not grow with depth (Radford et al. 2019,
        "Language Models are Unsupervised Multitask Learners", section 2.3). The embedding's deviation is 0.5, which
        trained faster in short runs than that of a matrix; a tied one also computes logits, and is drawn as a matrix.
        Norms start at one.
        """
        deviation = self.config.width**-0.5
        residual = deviation / (2 * self.config.num_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=residual)
            elif name == "embed_tokens.weight" and not self.config.tied:
                nn.init.normal_(parameter, std=0.5)
            else:
                nn.init.normal_(parameter, std=deviation)

    def forward(
        self, tokens: Tensor, cache: Cache | None = None, parts: Tensor | None = None, wanted: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Integer tokens (B, T) to float32 logits (B, T, V). With a cache, the tokens follow those it holds.

        `parts` are as in `read`. `wanted` (B, T), true at N places, asks for these alone, (N, V). `targets`, (B, T) or (N,),
        are the tokens that come next, and ask for the loss of each in place of logits: see `token_losses`.
        """
        x = self.read(tokens, cache, parts)
        x = x if wanted is None else x[wanted]
        weight = (self.embed_tokens if self.lm_head is None else self.lm_head).weight
        return F.linear(x, weight).float() if targets is None else token_losses(x, weight, targets)

    def read(self, tokens: Tensor, cache: Cache | None = None, parts: Tensor | None = None) -> Tensor:
        """Integer tokens (B, T) to what the layers make of each, normalized: (B, T, C).

        A row may hold several texts: `parts` (B, T) has a number for each of them, and a token attends to its own alone.
        Positions go on through the row, as rotary attention sees their differences only.
        """
        end = tokens.shape[1] + (0 if cache is None else cache.length)
        if end > self.config.context:
            raise InputError(f"The model reads at most {self.config.context} tokens but got {end}: shorten the text.")
        # Computed here, once for all layers, and kept nowhere: no state to save, to move or to lose on the meta device.
        positions, mask = torch.arange(end, device=tokens.device), None
        if cache is not None:
            positions, mask = cache.places(tokens.shape[1])
        elif parts is not None:
            mask = (parts[:, None, :, None] == parts[:, None, None, :]).tril()
        rotary = rotary_tables(positions, self.config)
        x = self.embed_tokens(tokens)
        for i, layer in enumerate(self.layers):
            x = layer(x, rotary, mask, i, cache)
        if cache is not None:
            cache.length = end
        return self.norm(x)  # type: ignore[no-any-return]


def huggingface_name(name: str) -> str:
    """A parameter's name in Hugging Face's `LlamaForCausalLM`.

    >>> huggingface_name("layers.0.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return name if name.startswith("lm_head.") else f"model.{name}"
