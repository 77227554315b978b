"""A language model in a GGUF file, the format of llama.cpp: metadata, tokenizer and (mostly quantized) weights in one.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onehour.data.chat import Chat
from onehour.errors import InputError
from onehour.models.gpt import GPTConfig, RopeScaling, rotary_frequencies
from onehour.models.pretrained import Pretrained
from onehour.models.vocabulary import tokenizer_json

if TYPE_CHECKING:
    from gguf import GGUFReader

OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
IN_BLOCK = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
ROPE_FREQUENCIES = "rope_freqs.weight"  # by how much each rotary pair is slowed


def open_gguf(path: Path) -> Pretrained:
    """The model in a GGUF file.

    Raises:
        InputError: the package gguf is not installed, the file is broken, or the model is of another architecture.
    """
    file = open_file(path)
    said = {name: field.contents() for name, field in file.fields.items()}
    config = config_of(said, file, path)
    chat = Chat(said.get("tokenizer.chat_template"), token_of(said, "bos"), token_of(said, "eos"), stops_of(said))
    return Pretrained(path, config, tokenizer_json(said, path), chat, partial(read_weights, file, config, path))


def open_file(path: Path) -> "GGUFReader":
    """The file, mapped into memory; InputError if it cannot be read."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise InputError(
            f"{path} needs the package gguf, which is not installed: pip install 'onehour[pretrained]'."
        ) from error
    try:
        return GGUFReader(path)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise InputError(f"The file {path} is no whole GGUF file ({error}); fetch it again.") from error


def config_of(said: dict[str, Any], file: "GGUFReader", path: Path) -> GPTConfig:
    """The shape of a model by a file's metadata.

    Raises:
        InputError: the model is of another architecture than `GPT`, or of a variant that it does not have.
    """
    if (kind := said.get("general.architecture")) != "llama":
        raise InputError(f"{path} is a model of the architecture {kind!r}; onehour reads that of Llama.")
    shapes = {tensor.name: tensor.shape.tolist() for tensor in file.tensors}  # the rows of a matrix come last
    try:
        num_heads = said["llama.attention.head_count"]
        config = GPTConfig(
            vocab_size=shapes["token_embd.weight"][1], context=said["llama.context_length"],
            num_layers=said["llama.block_count"], width=said["llama.embedding_length"], num_heads=num_heads,
            num_kv_heads=said.get("llama.attention.head_count_kv", num_heads),
            hidden_width=said["llama.feed_forward_length"], tied="output.weight" not in shapes,
            rope_theta=said.get("llama.rope.freq_base", 10000.0),
            norm_eps=said["llama.attention.layer_norm_rms_epsilon"],
        )  # fmt: skip
    except KeyError as error:
        raise InputError(f"{path} says nothing of {error}; fetch another file of this model.") from error
    turned = said.get("llama.rope.dimension_count", config.head_width)
    if said.get("llama.expert_count") or turned != config.head_width:
        raise InputError(
            f"{path} is a mixture of experts, or turns a part of each head only; onehour reads plain Llama."
        )
    return replace(config, rope_scaling=scaling_of(said, file, config, path))


def scaling_of(said: dict[str, Any], file: "GGUFReader", config: GPTConfig, path: Path) -> RopeScaling | None:
    """The scaling of rotary positions. A file has what came out of Llama 3.1's formula; that is tried with its factor."""
    if (kind := said.get("llama.rope.scaling.type", "none")) != "none":
        raise InputError(f"{path} stretches its rotary positions by {kind!r}, which onehour does not read.")
    slowed = next((torch.from_numpy(t.data.copy()) for t in file.tensors if t.name == ROPE_FREQUENCIES), None)
    if slowed is None:
        return None
    scaling = RopeScaling(round(slowed.max().item(), 3), low_frequency=1, high_frequency=4, context=8192)
    frequencies = rotary_frequencies(config)
    if not torch.allclose(frequencies / scaling.slowed(frequencies), slowed, rtol=1e-3):
        raise InputError(
            f"{path} stretches its rotary positions otherwise than Llama 3.1, which onehour does not read."
        )
    return scaling


def token_of(said: dict[str, Any], name: str) -> str | None:
    """The text of a special token: bos, eos."""
    number = said.get(f"tokenizer.ggml.{name}_token_id")
    return None if number is None else said["tokenizer.ggml.tokens"][number]


def stops_of(said: dict[str, Any]) -> tuple[int, ...]:
    """The ids of the tokens at which an answer ends: end of text, end of turn, end of message."""
    ids = {said.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")}
    return tuple(sorted(number for number in ids if number is not None))


def read_weights(file: "GGUFReader", config: GPTConfig, path: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights under our names, as float32, one by one."""
    from gguf import dequantize

    for tensor in file.tensors:
        try:
            weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        except NotImplementedError as error:
            raise InputError(f"{path}: {error}; fetch the model in another quantization, such as Q8_0.") from error
        name = name_of(tensor.name)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = halves_apart(weight, config.num_heads if name.endswith("q_proj.weight") else config.num_kv_heads)
        yield name, weight


def name_of(name: str) -> str:
    """Our name of a weight: blk.0.ffn_up.weight is layers.0.mlp.up_proj.weight. One that is not known keeps its own."""
    if block := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
        return f"layers.{block[1]}.{IN_BLOCK.get(block[2], block[2])}.weight"
    stem = name.removesuffix(".weight")
    return f"{OUTSIDE[stem]}.weight" if stem in OUTSIDE else name


def halves_apart(weight: Tensor, num_heads: int) -> Tensor:
    """The rows of a query or key matrix (num_heads * D, C) in our order.

    A GGUF file has the two numbers of a rotary pair beside each other, 2i and 2i + 1; here they are i and i + D/2.
    """
    pairs: Tensor = weight.view(num_heads, -1, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)
