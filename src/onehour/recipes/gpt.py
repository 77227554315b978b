"""A language model from scratch: a small Llama on any text, by default the source of Python's standard library."""

import gzip
import lzma
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from onehour.config import TrainConfig, check
from onehour.data.arrow import Columns, write_rows
from onehour.data.sources import find_text, fingerprint
from onehour.data.text import Piece, cut, split_documents, train_documents, windows
from onehour.data.tokens import BPE_FILE, NUM_BYTES, Tokenizer, first_bytes, open_tokenizer, train_byte_pairs
from onehour.errors import InputError
from onehour.models.gpt import GPT, GPTConfig
from onehour.models.language import Choice, Language
from onehour.recipe import Batch, Recipe

HELD_OUT_BYTES = 2**19  # enough for three digits of the loss; what a corpus holds out beyond it is not read
SEPARATOR = b"\0"  # stands after each document


@dataclass(frozen=True)
class GPTRecipe(Recipe):
    """A language model on any text, from scratch."""

    depth: int = 2
    """Layers; width, heads and learning rate follow from it."""
    context: int = 128
    """Tokens that the model reads at once."""
    text: str | None = None
    """File, folder, glob, Parquet or URI of text. None: the source of Python's standard library."""
    column: str = "text"
    """The column of Parquet files that holds the text."""
    vocab_size: int = NUM_BYTES
    """Number of different tokens. 256: the bytes themselves; more: byte-pair encoding, trained once."""
    width: int | None = None
    """Numbers that stand for a token. None: it follows from depth, as do the next three."""
    num_heads: int | None = None
    """Query heads."""
    num_kv_heads: int | None = None
    """Key and value heads, each shared by as many query heads."""
    hidden_width: int | None = None
    """Numbers inside each block's MLP."""
    tied: bool = False
    """Let one matrix be the embedding and the output layer."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "at least 1", "depth context width num_heads num_kv_heads hidden_width")
        if self.vocab_size < NUM_BYTES:
            raise InputError(f"vocab_size is {self.vocab_size}; it must be 256 (bytes) or more (byte pairs).")
        if self.text and "://" not in self.text:
            object.__setattr__(self, "text", str(Path(self.text).absolute()))  # workers run in another folder

    def defaults(self) -> TrainConfig:
        # For two minutes on two CPU cores: a small model, small batches and many steps.
        return TrainConfig(
            num_steps=2400, global_batch_size=8, optimizer="muon", learning_rate=min(1e-2, 2e-2 / self.depth),
            schedule="linear", warmup_steps=120, beta2=0.99, weight_decay=0.1, evaluate_every=800, checkpoint_every=800,
        )  # fmt: skip

    def space(self) -> dict[str, str]:
        return {
            "learning_rate": "log(1e-3, 1e-1)",
            "weight_decay": "log(1e-2, 1)",
            "beta2": "choice(0.95, 0.99, 0.999)",
        }

    def gpt_config(self) -> GPTConfig:
        """The shape of the model."""
        by_hand = {name: getattr(self, name) for name in ("width", "num_heads", "num_kv_heads", "hidden_width")}
        given = {name: value for name, value in by_hand.items() if value is not None}
        return GPTConfig.from_depth(
            self.depth, vocab_size=self.vocab_size, context=self.context, tied=self.tied, **given
        )

    def fingerprint(self) -> str:
        return f"{self.text} {self.column} {self.context} {self.vocab_size} {fingerprint(find_text(self.text))}"

    def prepare(self, folder: Path) -> dict[str, Any]:
        sources = find_text(self.text)
        if self.vocab_size > NUM_BYTES:
            train_byte_pairs(split_documents(sources, self.column)[0], self.vocab_size, folder / BPE_FILE)
        tokenizer = open_tokenizer(folder)
        held_out_text = SEPARATOR.join(first_bytes(split_documents(sources, self.column)[1], HELD_OUT_BYTES))
        num_held_out = write_rows(folder / "held_out.arrow", self.windows_of([held_out_text], tokenizer))
        if not num_held_out:
            num_train = sum(len(rows["tokens"]) for piece in self.pieces() for rows in self.rows_of(piece, folder))
            raise InputError(
                f"The text {self.text or 'of the standard library'} is too short: {num_train} windows of {self.context} "
                "tokens to train on and 0 to hold out; give more text, or a smaller --context."
            )
        return {
            "about": f"{self.text or 'the source of Python’s standard library'}, {len(sources):,} file{'s'[: len(sources) > 1]}",
            "tokens_per_byte": len(tokenizer.encode(held_out_text)) / len(held_out_text),
            "gzip": 8 * len(gzip.compress(held_out_text, compresslevel=9)) / len(held_out_text),
            "xz": 8 * len(lzma.compress(held_out_text, preset=9)) / len(held_out_text),
        }

    def pieces(self) -> list[Piece]:
        return cut(find_text(self.text), self.column)

    def rows_of(self, piece: Piece, folder: Path) -> Iterator[Columns]:
        return self.windows_of(train_documents(piece, self.column), open_tokenizer(folder))

    def windows_of(self, documents: Iterable[bytes], tokenizer: Tokenizer) -> Iterator[Columns]:
        """The documents' tokens, end to end, as rows of context + 1."""
        tokens = (tokenizer.encode(document + SEPARATOR) for document in documents)
        return ({"tokens": rows} for rows in windows(tokens, self.context))

    def build_model(self) -> GPT:
        return GPT(self.gpt_config())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        tokens = batch["tokens"].long()
        losses: Tensor = model(tokens[:, :-1], targets=tokens[:, 1:])
        return losses.mean(dim=1)

    def metrics(self, totals: dict[str, float], num_samples: int, facts: dict[str, Any]) -> dict[str, float]:
        loss = totals["loss"] / num_samples
        return {"loss": loss, "bits_per_byte": loss / math.log(2) * facts["tokens_per_byte"]}

    def unit(self) -> tuple[str, int]:
        return "tokens", self.context

    def generate(self, model: nn.Module, folder: Path, prompt: str, choice: Choice) -> Iterator[str]:
        assert isinstance(model, GPT)
        yield from Language.of_folder(model, folder).write(prompt, choice)

    def closing_words(self, model: nn.Module, folder: Path, metrics: dict[str, float], facts: dict[str, Any]) -> str:
        prompt = "def "
        pieces = self.generate(model, folder, prompt, Choice(300, temperature=0.8, top_k=40))
        return (
            f"held out   {metrics['held_out_loss']:.3f} nats per token, {metrics['held_out_bits_per_byte']:.3f} bits per byte"
            f" (gzip -9: {facts['gzip']:.3f}, xz -9: {facts['xz']:.3f})\n\n{prompt}{''.join(pieces)}"
        )
