"""Text to tokens and back: bytes as they are, or byte-pair encoding trained on the text itself."""

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onehour.data.text import character_at
from onehour.errors import InputError

NUM_BYTES = 256
BPE_FILE = "tokenizer.json"
SAMPLE_BYTES = 2**26  # byte-pair encoding learns from this much text: more changes few of its merges


class Tokenizer(Protocol):
    """Turns documents into tokens and tokens into text."""

    def encode(self, document: bytes, around: bool = True) -> NDArray[Any]:
        """The tokens (length,) of a document, `around` it those that the tokenizer puts there, such as a first one."""

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens, piece by piece, as soon as characters are complete."""

    def json(self) -> str:
        """The text of a tokenizer.json that encodes in the same way."""


class Bytes:
    """Every byte is a token: nothing to train, nothing unknown, 256 of them."""

    def encode(self, document: bytes, around: bool = True) -> NDArray[Any]:
        """The bytes of a document as uint8 tokens (length,)."""
        return np.frombuffer(document, np.uint8)

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            yield decoder.decode(bytes([token]))
        yield decoder.decode(b"", final=True)

    def json(self) -> str:
        """Byte-pair encoding without a single pair. Its tokens are characters that GPT-2 writes for bytes."""
        shown = [byte for byte in range(NUM_BYTES) if chr(byte).isprintable() and not chr(byte).isspace()]
        hidden = [byte for byte in range(NUM_BYTES) if byte not in shown]
        names = {byte: chr(byte) for byte in shown} | {byte: chr(NUM_BYTES + i) for i, byte in enumerate(hidden)}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        vocabulary = {names[byte]: byte for byte in range(NUM_BYTES)}
        return json.dumps(
            {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": level, "post_processor": None, "decoder": level,
             "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
        )  # fmt: skip


class BytePairs:
    """Byte-pair encoding over bytes (Sennrich et al. 2016; Radford et al. 2019, section 2.2).

    It is given as the text of a tokenizer.json, and of a pretrained model may be another that the package tokenizers
    knows.
    """

    def __init__(self, text: str) -> None:
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        self.tokenizer = HuggingFaceTokenizer.from_str(text)

    def encode(self, document: bytes, around: bool = True) -> NDArray[Any]:
        """The tokens (length,) of a document of UTF-8, uint16 where they fit and int32 elsewhere."""
        kind = np.uint16 if self.tokenizer.get_vocab_size() <= 2**16 else np.int32
        (encoded,) = self.tokenizer.encode_batch_fast(
            [to_text(document)], add_special_tokens=around
        )  # without the places in the text: a quarter faster
        return np.array(encoded.ids, kind)

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens, as soon as characters are complete."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        for token in tokens:
            yield stream.step(self.tokenizer, token) or ""

    def json(self) -> str:
        """The text of its tokenizer.json."""
        return self.tokenizer.to_str()


def train_byte_pairs(documents: Iterable[bytes], vocab_size: int, path: Path) -> None:
    """Train a byte-pair encoding of `vocab_size` tokens on the first 64 MiB of the documents; write it to `path`."""
    try:
        from tokenizers import Tokenizer as HuggingFaceTokenizer
        from tokenizers import decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise InputError(
            f"--vocab-size {vocab_size} needs the package tokenizers, which is not installed: pip install 'onehour[bpe]'."
        ) from error
    tokenizer = HuggingFaceTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((to_text(d) for d in first_bytes(documents, SAMPLE_BYTES)), trainer)
    tokenizer.save(str(path))


def first_bytes(documents: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Documents until they have `limit` bytes together; the last one may be cut, between two characters."""
    for document in documents:
        if limit <= 0:
            return
        yield document[: character_at(document, limit)]
        limit -= len(document)


def to_text(document: bytes) -> str:
    """The document as text; InputError if it is not UTF-8."""
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            "The text is not UTF-8, which byte-pair encoding needs; leave out --vocab-size, and its bytes are the tokens."
        ) from error


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that was kept in `folder` with the data or with a run: byte pairs if it has them, else bytes."""
    path = folder / BPE_FILE
    return BytePairs(path.read_text(encoding="utf-8")) if path.is_file() else Bytes()


def token_ids(tokenizer: str) -> dict[str, int]:
    """The id of each token of a tokenizer.json, given by its text; those that were added stand there, too.

    Raises:
        InputError: the text is no tokenizer.json.
    """
    try:
        there = json.loads(tokenizer)
        vocabulary, added = there["model"]["vocab"], there.get("added_tokens", [])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"The {BPE_FILE} is broken ({error}); fetch it again.") from error
    pieces = vocabulary if isinstance(vocabulary, dict) else {entry[0]: i for i, entry in enumerate(vocabulary)}
    return pieces | {token["content"]: token["id"] for token in added}
