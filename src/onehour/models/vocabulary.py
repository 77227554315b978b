"""The tokenizer in a GGUF file as a tokenizer.json, which the package tokenizers reads.

GGUF has the tokens, and of byte pairs the merges; how a text is cut before merging is a name that llama.cpp knows.
"""

import json
from pathlib import Path
from typing import Any

from onehour.errors import InputError

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of tokens; the others are 1, normal, and 6, a byte
# What llama.cpp calls a way of cutting -> which of three it is. Only those that models of Llama's architecture use.
CUTS = {
    "default": "words", "gpt-2": "words", "smollm": "digits", "starcoder": "digits", "refact": "digits",
    "command-r": "digits", "llama-bpe": "llama3", "llama3": "llama3", "llama-v3": "llama3",
}  # fmt: skip
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPACE = "▁"  # stands for a space in SentencePiece's tokens


def tokenizer_json(said: dict[str, Any], path: Path) -> str:
    """The text of a tokenizer.json, from a GGUF file's metadata.

    Raises:
        InputError: there is no tokenizer, or none of the kinds that Llama's models have.
    """
    try:
        kind, tokens = said["tokenizer.ggml.model"], said["tokenizer.ggml.tokens"]
        makers = {"gpt2": byte_pairs, "llama": sentence_pieces}
        if kind not in makers:
            raise InputError(f"{path} has a tokenizer of the kind {kind!r}; onehour reads {' and '.join(makers)}.")
        model = makers[kind](said, path)
    except KeyError as error:
        raise InputError(f"{path} has no tokenizer: it says nothing of {error}; fetch another file of it.") from error
    add_bos = said.get("tokenizer.ggml.add_bos_token", kind == "llama")
    types = said.get("tokenizer.ggml.token_type", [1] * len(tokens))
    added = [
        {"id": i, "content": token, "special": kind != USER_DEFINED, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]  # fmt: skip
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": None,
    } | model
    if add_bos:
        whole["post_processor"] = put_before(said["tokenizer.ggml.bos_token_id"], tokens)
    return json.dumps(whole, ensure_ascii=False)


def byte_pairs(said: dict[str, Any], path: Path) -> dict[str, Any]:
    """Byte-pair encoding over bytes, as in GPT-2, SmolLM and Llama 3."""
    name = said.get("tokenizer.ggml.pre", "default")
    if name not in CUTS:
        raise InputError(f"{path} cuts text in the way {name!r}; onehour knows {', '.join(CUTS)}.")
    cut = CUTS[name]
    space = bool(said.get("tokenizer.ggml.add_space_prefix", False))
    bytes_only = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": cut != "llama3"}
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_WORDS}, "behavior": "Isolated", "invert": False}
    first = {"words": [], "digits": [{"type": "Digits", "individual_digits": True}], "llama3": [split]}[cut]
    tokens = said["tokenizer.ggml.tokens"]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*first, bytes_only]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": bpe(tokens, said["tokenizer.ggml.merges"], ignore_merges=cut == "llama3"),
    }


def sentence_pieces(said: dict[str, Any], path: Path) -> dict[str, Any]:
    """SentencePiece's byte pairs, as in Llama 1 and 2: the scores of the tokens say which of them are merged first."""
    tokens, scores = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.scores"]
    merges = merges_by_score(dict(zip(tokens, scores, strict=True)))
    ahead = bool(said.get("tokenizer.ggml.add_space_prefix", True))
    to_pieces: list[Any] = [{"type": "Prepend", "prepend": SPACE}] * ahead
    to_pieces += [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    to_text: list[Any] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    to_text += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * ahead
    unknown = tokens[said.get("tokenizer.ggml.unknown_token_id", 0)]
    return {
        "normalizer": {"type": "Sequence", "normalizers": to_pieces},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": to_text},
        "model": bpe(tokens, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }


def merges_by_score(scores: dict[str, float]) -> list[str]:
    """All pairs of tokens that make a token, the likeliest first."""
    pairs = [
        (-score, scores[token[i:]], token[:i], token[i:])
        for token, score in scores.items()
        for i in range(1, len(token))
        if token[:i] in scores and token[i:] in scores
    ]
    return [f"{left} {right}" for _, _, left, right in sorted(pairs, key=lambda pair: pair[0])]


def bpe(tokens: list[str], merges: list[str], **options: Any) -> dict[str, Any]:
    """The part `model` of a tokenizer.json."""
    plain: dict[str, Any] = {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
    }
    plain |= {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return {"type": "BPE"} | plain | options | {"vocab": vocabulary, "merges": [merge.split(" ") for merge in merges]}


def put_before(number: int, tokens: list[str]) -> dict[str, Any]:
    """The part `post_processor`: the token of this number before each text."""
    token = tokens[number]
    text = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": text, "pair": text, "special_tokens": special}
