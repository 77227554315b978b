"""A language model ready to write: the network, its tokenizer, and how it converses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from onehour.data.chat import Chat, Message, read_chat
from onehour.data.tokens import BytePairs, Tokenizer, open_tokenizer, token_ids
from onehour.errors import InputError
from onehour.models.decoding import Decoder
from onehour.models.gpt import GPT, Cache
from onehour.models.pretrained import Pretrained
from onehour.models.sampling import begun, generate, side_by_side

END = "\0"  # stands between documents where nothing else does


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen: see `onehour.models.sampling.generate`."""

    num_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 1


@dataclass(frozen=True)
class Language:
    """A language model and its words."""

    model: GPT
    tokenizer: Tokenizer
    chat: Chat

    @classmethod
    def of_pretrained(cls, pretrained: Pretrained) -> "Language":
        """A pretrained model, with its weights."""
        return cls(pretrained.build(), BytePairs(pretrained.tokenizer), pretrained.chat)

    @classmethod
    def of_folder(cls, model: GPT, folder: Path) -> "Language":
        """A model whose tokenizer, and how it converses if it does, were kept in `folder`, as a run keeps them."""
        tokenizer = open_tokenizer(folder)
        return cls(model, tokenizer, read_chat(folder, token_ids(tokenizer.json())))

    def write(self, prompt: str, choice: Choice) -> Iterator[str]:
        """Continue a prompt, piece by piece, to the end of the text or of `num_tokens`.

        Raises:
            InputError: the prompt is longer than the model's context.
        """
        yield from self.continued(self.tokens_of(prompt), choice)

    def answer(self, messages: list[Message], choice: Choice) -> Iterator[str]:
        """The assistant's next words in a conversation, piece by piece; they end where the context does.

        What the conversation has in common with the one before it, from the beginning, is not read again.

        Raises:
            InputError: the model does not converse, or the conversation is longer than its context.
        """
        tokens = self.tokenizer.encode(self.chat.render(messages, answer_next=True).encode(), around=False).tolist()
        room = self.model.config.context - len(tokens)
        if room < 1:
            raise InputError(
                f"The conversation has {len(tokens)} tokens, and the model reads {self.model.config.context}."
            )
        choice = replace(choice, num_tokens=min(room, choice.num_tokens))
        text = torch.tensor([tokens], device=self.model.embed_tokens.weight.device)
        before = self.conversations[0] if self.conversations else None
        cache = begun(self.model, text, choice.num_tokens, before)
        self.conversations[:] = [cache]
        yield from self.continued(tokens, choice, cache)

    def continued(self, tokens: list[int], choice: Choice, cache: Cache | None = None) -> Iterator[str]:
        """The text that follows tokens."""
        following = (token.item() for token in self.following(torch.tensor([tokens]), choice, cache=cache))
        until_stop = takewhile(lambda token: token not in self.chat.stops, following)
        return self.tokenizer.decode(until_stop)  # type: ignore[arg-type]

    def write_all(self, prompts: Sequence[str], choice: Choice, asked: bool = False) -> list[str]:
        """Continue several prompts at once, or answer them. At temperature 0 each becomes what it becomes alone.

        A text that will outgrow the context is written alone: in a batch it would forget its beginning at another token.

        Raises:
            InputError: a prompt is longer than the model's context, or is asked, and the model does not converse.
        """
        texts = [self.tokens_of(prompt, asked) for prompt in prompts]
        room = self.model.config.context - choice.num_tokens
        fitting = [i for i, tokens in enumerate(texts) if len(tokens) <= room]
        together = self.continue_all([texts[i] for i in fitting], choice) if fitting else []
        written = dict(zip(fitting, together, strict=True))
        return [written[i] if i in written else "".join(self.continued(texts[i], choice)) for i in range(len(texts))]

    def continue_all(self, texts: Sequence[list[int]], choice: Choice) -> list[str]:
        """The text that follows each of several texts of tokens, as long as all of them fit into the context."""
        tokens, padding = side_by_side(texts)
        rows: list[list[int]] = [[] for _ in texts]
        going = set(range(len(texts)))
        for token in self.following(tokens, choice, padding):
            going -= {i for i in going if token[i].item() in self.chat.stops}
            for i in going:
                rows[i].append(int(token[i]))
            if not going:
                break
        return ["".join(self.tokenizer.decode(row)) for row in rows]

    def tokens_of(self, prompt: str, asked: bool = False) -> list[int]:
        """The tokens of a prompt, or of a conversation in which it is `asked`; of nothing, that with which a text begins."""
        text = self.chat.render([{"role": "user", "content": prompt}], answer_next=True) if asked else prompt
        tokens: list[int] = self.tokenizer.encode(text.encode(), around=not asked).tolist()
        if len(tokens) > self.model.config.context:
            beginning = prompt if len(prompt) < 20 else prompt[:20] + "..."
            raise InputError(
                f"The prompt {beginning!r} has {len(tokens):,} tokens, and the model reads "
                f"{self.model.config.context:,} at most: shorten it."
            )
        return tokens or self.tokens_of(self.chat.bos or self.chat.eos or END)

    def following(
        self, tokens: Tensor, choice: Choice, padding: Tensor | None = None, cache: Cache | None = None
    ) -> Iterator[Tensor]:
        """The tokens (B,) that follow tokens (B, T), one after the other."""
        device = self.model.embed_tokens.weight.device
        random = torch.Generator(device).manual_seed(choice.seed)
        network = self.decoder(len(tokens))
        return generate(
            network, tokens.to(device), choice.num_tokens, choice.temperature, choice.top_k, random, padding, cache
        )

    def decoder(self, batch_size: int) -> Decoder | GPT:
        """The model, made faster for so many sequences where that helps."""
        if self.model.embed_tokens.weight.device.type != "cpu":
            return self.model
        if batch_size not in self.decoders:
            self.decoders.clear()  # one copy of the weights is enough
            self.decoders[batch_size] = Decoder(self.model, batch_size)
        return self.decoders[batch_size]

    @cached_property
    def decoders(self) -> dict[int, Decoder]:
        """The last one that was made, by its batch size."""
        return {}

    @cached_property
    def conversations(self) -> list[Cache]:
        """The cache of the last one, if there was one."""
        return []
