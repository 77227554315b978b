"""Labelled text, such as mail that is spam or not: a small model from scratch, or a pretrained one with a new head."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onehour.config import TrainConfig, check
from onehour.data.arrow import Columns, write_rows
from onehour.data.labelled import Labelled, functions_by_package, labels_of, read_labelled, split
from onehour.data.prepare import facts_in, prepare
from onehour.data.sources import find_text, fingerprint
from onehour.data.tokens import BPE_FILE, NUM_BYTES, open_tokenizer, train_byte_pairs
from onehour.errors import InputError
from onehour.models.classifier import Classifier, confusion
from onehour.models.gpt import GPT, GPTConfig
from onehour.models.huggingface import write_folder
from onehour.models.lora import add_lora
from onehour.models.pretrained import open_pretrained
from onehour.recipe import Batch, Recipe


@dataclass(frozen=True)
class Classify(Recipe):
    """Which label a text has."""

    data: str | None = None
    """File, folder, glob or URI of CSV, JSON lines or Parquet. None: functions of Python's library, and their packages."""
    held_out: str | None = None
    """The same for texts to evaluate on. None: one in ten of each label; of the library, one in five of the files."""
    text_column: str = "text"
    """The column of the texts."""
    label_column: str = "label"
    """The column of their labels."""
    context: int = 128
    """Tokens that the model reads of a text; the rest is cut off."""
    vocab_size: int = 2048
    """Number of different tokens of a model from scratch: byte pairs, learned from the texts. 256: the bytes themselves."""
    depth: int = 2
    """Layers of a model from scratch; width and heads follow from it."""
    pretrained: str | None = None
    """Hugging Face folder or GGUF file of a language model to begin with. None: from scratch."""
    lora_rank: int | None = 16
    """Rank of what is learned beside each matrix of a pretrained model's layers; None trains all its weights."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "at least 1", "context depth lora_rank")
        check(self, lambda value: value >= NUM_BYTES, "256 (bytes) or more (byte pairs)", "vocab_size")
        for name in ("data", "held_out", "pretrained"):  # workers run in another folder
            if (value := getattr(self, name)) and "://" not in value:
                object.__setattr__(self, name, str(Path(value).absolute()))

    def defaults(self) -> TrainConfig:
        if self.pretrained:
            return TrainConfig(
                num_epochs=1, global_batch_size=8, micro_batch_size=4, learning_rate=5e-4 if self.lora_rank else 5e-5,
                schedule="linear", warmup_steps=10, evaluate_every=100,
            )  # fmt: skip
        return TrainConfig(
            num_steps=200, global_batch_size=32, learning_rate=2e-3, schedule="linear", warmup_steps=20, beta2=0.99,
            weight_decay=0.1, evaluate_every=50,
        )  # fmt: skip

    def space(self) -> dict[str, str]:
        learning_rate = self.defaults().learning_rate
        return {
            "learning_rate": f"log({learning_rate / 10:.0e}, {learning_rate * 4:.0e})",
            "weight_decay": "log(1e-3, 1)",
        }

    def fingerprint(self) -> str:
        options = [
            self.data,
            self.held_out,
            self.text_column,
            self.label_column,
            self.context,
            self.vocab_size,
            self.pretrained,
        ]
        files = [fingerprint(find_text(where)) for where in (self.data, self.held_out)]
        return f"{options} {files} {fingerprint(find_text(self.pretrained)) if self.pretrained else ''}"

    def prepare(self, folder: Path) -> dict[str, Any]:
        if self.pretrained:
            opened = open_pretrained(Path(self.pretrained))
            if self.context > opened.config.context:
                raise InputError(
                    f"context is {self.context}, and {self.pretrained} reads at most {opened.config.context} tokens; "
                    "give a smaller --context."
                )
            write_folder(folder, opened.build(), opened.tokenizer, opened.chat)
        train, held_out = self.rows()
        if not self.pretrained and self.vocab_size > NUM_BYTES:
            train_byte_pairs((row.text.encode() for row in train), self.vocab_size, folder / BPE_FILE)
        labels = labels_of(train, held_out, self.data or "the library")
        for name, rows in (("train", train), ("held_out", held_out)):
            if not write_rows(folder / f"{name}.arrow", [self.columns(rows, labels, folder)] if rows else []):
                raise InputError(
                    f"{self.data} has no text to hold out; give more of each label, or others by --held-out."
                )
        what = self.data or "functions of Python’s standard library, and the packages they are in"
        return {"about": f"{what}, {len(labels)} labels", "labels": labels}

    def rows(self) -> tuple[list[Labelled], list[Labelled]]:
        """The texts to train on, and those to evaluate on."""
        sources = find_text(self.data)
        if self.data is None:
            return split(functions_by_package(sources), share=5)
        both = list(read_labelled(sources, self.text_column, self.label_column))
        if self.held_out is None:
            return split(both, share=10)
        return both, list(read_labelled(find_text(self.held_out), self.text_column, self.label_column))

    def columns(self, rows: Sequence[Labelled], labels: Sequence[str], folder: Path) -> Columns:
        """The rows as tokens (n, context), which end with zeros, the length of each text in them, and its label."""
        number = {label: i for i, label in enumerate(labels)}
        return self.texts([row.text for row in rows], folder) | {"label": np.array([number[row.label] for row in rows])}

    def texts(self, texts: Sequence[str], folder: Path) -> Columns:
        """Texts as tokens (n, context), which end with zeros, and their lengths."""
        tokenizer = open_tokenizer(folder)
        encoded = [tokenizer.encode(text.encode())[: self.context] for text in texts]
        tokens = np.zeros((len(texts), self.context), encoded[0].dtype)
        for row, of_text in zip(tokens, encoded, strict=True):
            row[: len(of_text)] = of_text
        return {"tokens": tokens, "length": np.array([len(of_text) for of_text in encoded])}

    def build_model(self) -> nn.Module:
        return self.begin(prepare(self).folder)

    def begin(self, folder: Path) -> nn.Module:
        num_classes = len(facts_in(folder)["labels"])
        if self.pretrained is None:
            config = GPTConfig.from_depth(self.depth, vocab_size=self.vocab_size, context=self.context, tied=True)
            return Classifier(GPT(config), num_classes)
        opened = open_pretrained(folder)
        # Tied, a model has no matrix of its own for logits, which nobody asks for here.
        backbone = replace(opened, config=replace(opened.config, tied=True)).build()
        if self.lora_rank:
            add_lora(backbone, backbone.layers, self.lora_rank, 2 * self.lora_rank)
        return Classifier(backbone, num_classes).train()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(self.logits(model, batch), batch["label"], reduction="none")

    def count(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = self.logits(model, batch)
        table = confusion(batch["label"], logits.argmax(dim=1), logits.shape[1])
        return {"loss": cross_entropy(logits, batch["label"], reduction="sum"), "confusion": table}

    def metrics(self, totals: dict[str, Any], num_samples: int, facts: dict[str, Any]) -> dict[str, Any]:
        table = totals["confusion"]
        accuracy = float(np.trace(table)) / num_samples
        return {
            "loss": totals["loss"] / num_samples, "accuracy": accuracy, "f1": macro_f1(table),
            "confusion": table.astype(int).tolist(),
        }  # fmt: skip

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        probabilities = torch.softmax(self.logits(model, batch), dim=1)
        return {"prediction": probabilities.argmax(dim=1), "probability": probabilities.amax(dim=1)}

    def read(self, table: pa.Table, folder: Path) -> Columns:
        if self.text_column not in table.column_names:
            raise InputError(f"The input has the columns {', '.join(table.column_names)}, and no {self.text_column}.")
        return self.texts([str(text or " ") for text in table[self.text_column].to_pylist()], folder)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of each text, (B, number of labels)."""
        return model(batch["tokens"].long(), batch["length"])  # type: ignore[no-any-return]


def macro_f1(table: np.ndarray) -> float:
    """The mean over the labels of the harmonic mean of precision and recall; of those that occur or are predicted.

    `table` has a row for each label that a sample has, a column for each that it was given. Sokolova and Lapalme 2009,
    "A systematic analysis of performance measures for classification tasks", table 3.
    """
    either = table.sum(axis=0) + table.sum(axis=1)
    return float((2 * np.diag(table)[either > 0] / either[either > 0]).mean())
