"""A language model in a GGUF file, the format of llama.cpp: metadata, tokenizer and (mostly quantized) weights in one.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import importlib.util
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onehour.data.chat import Chat
from onehour.errors import InputError
from onehour.models.gpt import GPTConfig, RopeScaling, rotary_frequencies
from onehour.models.pretrained import Pretrained
from onehour.models.vocabulary import tokenizer_json

NUMBERS = dict(
    zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
)  # GGUF's types, as struct names them
TEXT, LIST = 8, 9
AT_ONCE = 2**14  # numbers in a row of a weight while it is read: the package gguf takes 16 rows at a time
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
    said, stored = read_head(path)
    config = config_of(said, stored, path)
    chat = Chat(said.get("tokenizer.chat_template"), token_of(said, "bos"), token_of(said, "eos"), stops_of(said))
    return Pretrained(path, config, tokenizer_json(said, path), chat, partial(read_weights, stored, config, path))


@dataclass(frozen=True)
class Stored:
    """A weight as a file has it."""

    shape: tuple[int, ...]
    kind: int
    """How it is quantized, as `gguf.GGMLQuantizationType` numbers it."""
    data: NDArray[np.uint8]

    def read(self) -> Tensor:
        """The weight as float32; NotImplementedError if the package gguf does not know the quantization."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        kind = GGMLQuantizationType(self.kind)
        block, num_bytes = GGML_QUANT_SIZES[kind]  # how many numbers stand together, in how many bytes
        num_blocks = math.gcd(len(self.data) // num_bytes, AT_ONCE // block)  # rows of any length are the same numbers
        rows = dequantize(self.data.reshape(-1, num_blocks * num_bytes), kind)
        return torch.from_numpy(np.require(rows, requirements="W")).view(self.shape)


class Head:
    """What stands in a file before its weights, read from one end to the other.

    The package gguf has a reader, too; it makes several arrays for each of 50,000 tokens, which takes seconds.
    """

    def __init__(self, file: NDArray[np.uint8]) -> None:
        self.bytes, self.place = file.data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        """The next numbers, in a form of the module struct."""
        values = struct.unpack_from(f"<{form}", self.bytes, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def text(self) -> str:
        """The next text, before which stands its length."""
        begin = self.place + 8
        self.place = begin + self.numbers("Q")[0]
        return str(self.bytes[begin : self.place], "utf-8")

    def value(self, kind: int) -> Any:
        """The next value: a number, a text, or a list of either."""
        if kind == TEXT:
            return self.text()
        if kind != LIST:
            return self.numbers(NUMBERS[kind])[0]
        kind, length = self.numbers("IQ")
        return (
            list(self.numbers(f"{length}{NUMBERS[kind]}"))
            if kind in NUMBERS
            else [self.value(kind) for _ in range(length)]
        )


def read_head(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """What a file says of its model, and its weights by name, which stay on the disk.

    Raises:
        InputError: the package gguf is not installed, or the file is not whole.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"{path} needs the package gguf, which is not installed: pip install 'onehour[pretrained]'.")
    try:
        file = np.asarray(np.memmap(path, mode="r"))
        head = Head(file)
        if head.numbers("4s") != (b"GGUF",):
            raise ValueError("GGUF magic invalid")
        version, num_weights, num_said = head.numbers("IQQ")
        if version not in (2, 3):
            raise ValueError(f"version {version}, where 2 and 3 are known")
        said = {head.text(): head.value(*head.numbers("I")) for _ in range(num_said)}
        infos = [
            (head.text(), head.numbers(f"{head.numbers('I')[0]}Q"), *head.numbers("IQ")) for _ in range(num_weights)
        ]
        begin = -(-head.place // (step := said.get("general.alignment", 32))) * step
        return said, {name: stored_at(file[begin + place :], shape[::-1], kind) for name, shape, kind, place in infos}
    except (ValueError, OSError, KeyError, struct.error) as error:
        raise InputError(f"The file {path} is no whole GGUF file ({error}); fetch it again.") from error


def stored_at(rest: NDArray[np.uint8], shape: tuple[int, ...], kind: int) -> Stored:
    """The weight with which the `rest` of a file begins; ValueError if it is not whole."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    size = math.prod(shape) // block * num_bytes
    if len(rest) < size:
        raise ValueError(f"it ends before a weight of {size:,} bytes does")
    return Stored(shape, kind, rest[:size])


def config_of(said: dict[str, Any], stored: dict[str, Stored], path: Path) -> GPTConfig:
    """The shape of a model by a file's metadata.

    Raises:
        InputError: the model is of another architecture than `GPT`, or of a variant that it does not have.
    """
    if (kind := said.get("general.architecture")) != "llama":
        raise InputError(f"{path} is a model of the architecture {kind!r}; onehour reads that of Llama.")
    try:
        num_heads = said["llama.attention.head_count"]
        config = GPTConfig(
            vocab_size=stored["token_embd.weight"].shape[0], context=said["llama.context_length"],
            num_layers=said["llama.block_count"], width=said["llama.embedding_length"], num_heads=num_heads,
            num_kv_heads=said.get("llama.attention.head_count_kv", num_heads),
            hidden_width=said["llama.feed_forward_length"], tied="output.weight" not in stored,
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
    return replace(config, rope_scaling=scaling_of(said, stored, config, path))


def scaling_of(said: dict[str, Any], stored: dict[str, Stored], config: GPTConfig, path: Path) -> RopeScaling | None:
    """The scaling of rotary positions. A file has what came out of Llama 3.1's formula; that is tried with its factor."""
    if (kind := said.get("llama.rope.scaling.type", "none")) != "none":
        raise InputError(f"{path} stretches its rotary positions by {kind!r}, which onehour does not read.")
    if ROPE_FREQUENCIES not in stored:
        return None
    slowed = stored[ROPE_FREQUENCIES].read()
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


def read_weights(stored: dict[str, Stored], config: GPTConfig, path: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights under our names, as float32, one by one."""
    for there, tensor in stored.items():
        try:
            weight = tensor.read()
        except NotImplementedError as error:
            raise InputError(f"{path}: {error}; fetch the model in another quantization, such as Q8_0.") from error
        name = name_of(there)
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
