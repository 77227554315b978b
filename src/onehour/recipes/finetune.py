"""A pretrained language model taught to answer: on your conversations, or on the docstrings of the standard library."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onehour.config import TrainConfig, check
from onehour.data.answers import Encoded, Writer, columns_of, fit, pack
from onehour.data.arrow import write_rows
from onehour.data.conversations import Conversation, read_conversations
from onehour.data.docstrings import documented_functions
from onehour.data.prepare import prepare
from onehour.data.sources import find_text, fingerprint
from onehour.data.text import by_chance, is_held_out
from onehour.data.tokens import open_tokenizer
from onehour.errors import InputError
from onehour.models.gpt import GPT
from onehour.models.huggingface import write_folder
from onehour.models.language import Choice, Language
from onehour.models.lora import add_lora
from onehour.models.pretrained import Pretrained, open_pretrained
from onehour.recipe import Batch, Recipe

NUM_HELD_OUT = 160  # docstrings: enough to tell two models apart, and evaluated in seconds
DEFAULT = "pretrained/smollm2"  # where `make pretrained` puts a small model


@dataclass(frozen=True)
class FineTune(Recipe):
    """A pretrained language model, taught by conversations to answer."""

    pretrained: str = DEFAULT
    """Hugging Face folder or GGUF file of a model to begin with. `make pretrained` fetches a small one."""
    data: str | None = None
    """File, folder, glob or URI of conversations, as JSON lines, JSON or Parquet. None: the docstrings of Python's library."""
    held_out: str | None = None
    """The same for conversations to evaluate on. None: one in ten of the data."""
    context: int = 512
    """Tokens of a sample, which holds as many conversations as fit; longer ones are cut."""
    lora_rank: int | None = 16
    """Rank of what is learned beside each matrix of the layers; None trains all weights."""
    lora_alpha: float = 32.0
    """What is learned counts lora_alpha / lora_rank times."""

    def __post_init__(self) -> None:
        check(self, lambda value: value >= 1, "at least 1", "lora_rank")
        check(self, lambda value: value >= 2, "at least 2", "context")
        check(self, lambda value: value > 0, "greater than 0", "lora_alpha")
        for name in ("pretrained", "data", "held_out"):  # workers run in another folder
            if (value := getattr(self, name)) and "://" not in value:
                object.__setattr__(self, name, str(Path(value).absolute()))

    def defaults(self) -> TrainConfig:
        # Few and small steps: for a CPU, a model of 135 million parameters and the docstrings.
        return TrainConfig(
            num_steps=48, global_batch_size=4, micro_batch_size=1, learning_rate=1e-3 if self.lora_rank else 5e-5,
            schedule="linear", warmup_steps=4, beta2=0.99, evaluate_every=24, evaluate_first=True, log_every=4,
        )  # fmt: skip

    def space(self) -> dict[str, str]:
        if self.lora_rank:
            return {"learning_rate": "log(1e-4, 1e-2)", "lora_rank": "choice(4, 16, 64)"}
        return {"learning_rate": "log(5e-6, 5e-4)", "weight_decay": "log(1e-3, 1)"}

    def open(self) -> Pretrained:
        """The model to begin with; InputError if it is not there, or reads fewer tokens than `context`."""
        if not Path(self.pretrained).exists():
            raise InputError(
                f"There is no model at {self.pretrained} to begin with; name a Hugging Face folder or a GGUF file by "
                "--pretrained, or fetch a small one by: make pretrained"
            )
        opened = open_pretrained(Path(self.pretrained))
        if self.context > opened.config.context:
            raise InputError(
                f"context is {self.context}, and {self.pretrained} reads at most {opened.config.context} tokens; "
                "give a smaller --context."
            )
        return opened

    def fingerprint(self) -> str:
        self.open()
        files = [fingerprint(find_text(where)) for where in (self.pretrained, self.data, self.held_out)]
        return f"{self.pretrained} {self.data} {self.held_out} {self.context} {files}"

    def prepare(self, folder: Path) -> dict[str, Any]:
        pretrained = self.open()
        write_folder(folder, pretrained.build(), pretrained.tokenizer, pretrained.chat)
        writer = Writer(pretrained.chat, open_tokenizer(folder))
        train, held_out = self.conversations()
        facts = {}
        for name, conversations in (("held_out", held_out), ("train", train)):
            fitting, num_cut, num_left_out = fit((writer.encode(c.messages) for c in conversations), self.context)
            if not fitting:
                raise InputError(
                    f"{self.what()} has no conversation {'to train on' if name == 'train' else 'to hold out'} with an answer "
                    f"within its first {self.context} tokens; give more data, or a larger --context."
                )
            rows = pack(fitting, self.context)
            write_rows(folder / f"{name}.arrow", columns_of(rows, self.context))
            facts[name] = told(fitting, num_cut, num_left_out)
        return {
            "about": f"{self.what()}, {facts['train']} and {facts['held_out']} held out",
            "sample": min(held_out, key=lambda c: len(c.messages[0]["content"])).messages,
        }

    def what(self) -> str:
        """The data in words."""
        return self.data or "the docstrings of Python’s standard library"

    def conversations(self) -> tuple[list[Conversation], list[Conversation]]:
        """Those to train on and those to evaluate on.

        Of the standard library whole modules are held out, and none of their docstrings that is a trained one, too.
        """
        sources = find_text(self.data)
        if self.data is None:
            both = list(documented_functions(sources))
            train = [c for c in both if not is_held_out(module_of(c))]
            seen = {c.messages[-1]["content"] for c in train}
            rest = [c for c in both if is_held_out(module_of(c)) and c.messages[-1]["content"] not in seen]
            return train, sorted(rest, key=lambda c: by_chance(c.name))[:NUM_HELD_OUT]
        if self.held_out:
            return list(read_conversations(sources)), list(read_conversations(find_text(self.held_out)))
        both = list(read_conversations(sources))
        train = [c for c in both if not is_held_out(c.name)]
        if len(train) in (0, len(both)):  # so few that chance gave one side nothing
            train = both[: len(both) * 9 // 10]
        return train, [c for c in both if c not in train]

    def build_model(self) -> nn.Module:
        return self.begin(prepare(self).folder)

    def begin(self, folder: Path) -> nn.Module:
        model = open_pretrained(folder).build()
        if self.lora_rank:
            add_lora(model, model.layers, self.lora_rank, self.lora_alpha)
        return model.train()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses, wanted = answer_losses(model, batch)
        weights = batch["weight"][:, 1:]
        return torch.zeros_like(weights).masked_scatter(wanted, losses).mul(weights).sum(dim=1)

    def count(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        losses, _ = answer_losses(model, batch)
        return {"loss": losses.sum(), "tokens": torch.tensor(len(losses))}

    def metrics(self, totals: dict[str, Any], num_samples: int, facts: dict[str, Any]) -> dict[str, Any]:
        loss = totals["loss"] / totals["tokens"]
        return {"loss": loss, "perplexity": math.exp(min(loss, 700))}

    def unit(self) -> tuple[str, int]:
        return "tokens", self.context

    def generate(self, model: nn.Module, folder: Path, prompt: str, choice: Choice) -> Iterator[str]:
        assert isinstance(model, GPT)
        messages = [{"role": "user", "content": prompt}]
        yield from Language.of_folder(model, folder).answer(messages, choice)

    def next_command(self) -> str:
        return "chat"

    def closing_words(self, model: nn.Module, folder: Path, metrics: dict[str, float], facts: dict[str, Any]) -> str:
        messages = facts["sample"]
        place = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        question = messages[:place]
        assert isinstance(model, GPT)
        before, after = (
            "".join(Language.of_folder(each, folder).answer(question, Choice(60)))
            for each in (open_pretrained(folder).build(), model)
        )
        return (
            f"held out   {metrics['held_out_loss']:.3f} nats per token of an answer, perplexity "
            f"{metrics['held_out_perplexity']:.2f}\n\n{question[-1]['content']}\n\n"
            f"in the data  {messages[place]['content']}\nbefore       {before.strip()}\nafter        {after.strip()}"
        )


def told(conversations: list[Encoded], num_cut: int, num_left_out: int) -> str:
    """How many conversations there are, in words."""
    more = f" ({num_cut:,} cut)" if num_cut else ""
    more += f" ({num_left_out:,} left out, whose answers begin too late)" if num_left_out else ""
    return f"{len(conversations):,} conversation{'s'[: len(conversations) > 1]}{more}"


def module_of(conversation: Conversation) -> str:
    """The module or package of a documented function."""
    return conversation.name.partition("/")[0]


def answer_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of each token of an answer (N,), and where they are among the targets (B, T - 1)."""
    tokens, wanted = batch["tokens"].long(), batch["weight"][:, 1:] > 0
    targets = tokens[:, 1:][wanted]
    return model(tokens[:, :-1], parts=batch["part"][:, :-1], wanted=wanted, targets=targets), wanted
