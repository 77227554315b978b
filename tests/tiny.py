"""A pretrained model as small as can be, written by transformers, and conversations for it."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from onehour.data.tokens import train_byte_pairs

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
WORDS = "red green blue one two three four five six seven eight nine ten the color of number is and".split()  # noqa: SIM905


def write_tiny(folder: Path, template: str | None = TEMPLATE, tied: bool = True) -> Path:
    """A Llama of two layers with random weights, and a tokenizer of some 300 tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied, initializer_range=0.2,
        bos_token_id=None, eos_token_id=297,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    train_byte_pairs([" ".join(WORDS * 3).encode()], 280, folder / "raw.json")
    tokenizer = Tokenizer.from_file(str(folder / "raw.json"))
    (folder / "raw.json").unlink()
    tokenizer.add_special_tokens(["<|start|>", "<|end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def conversation(i: int) -> list[dict[str, str]]:
    """A question and an answer; every third one goes on with another."""
    word, other = WORDS[i % 13], WORDS[(i * 5 + 1) % 13]
    messages = [
        {"role": "user", "content": f"the number of {word} {i}"},
        {"role": "assistant", "content": f"{other} is {word}"},
    ]
    return messages + (messages if i % 3 == 0 else [])


def write_conversations(path: Path, num: int = 60) -> Path:
    """A file of such conversations, as JSON lines."""
    path.write_text("".join(json.dumps({"messages": conversation(i)}) + "\n" for i in range(num)))
    return path
