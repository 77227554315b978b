"""Conversations as tokens of which only the answers are learned, packed into rows of one length.

A row holds several conversations, each its own part: a token attends to those of its part alone (GPT.read), so what a
conversation is packed with changes nothing for it. That costs a mask, and saves the padding that would fill the rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onehour.data.arrow import Columns
from onehour.data.chat import Chat, Message
from onehour.data.tokens import Tokenizer
from onehour.errors import InputError

CHUNK = 1024  # rows that are written together


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens (length,), and which of them are of an answer (length,)."""

    tokens: NDArray[Any]
    answer: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Writer:
    """Writes conversations as one model reads them: by its chat template and its tokenizer."""

    chat: Chat
    tokenizer: Tokenizer

    def encode(self, messages: list[Message]) -> Encoded:
        """The tokens of a conversation; the answers are what the assistant says, up to the token that ends its turn.

        Each stretch is encoded by itself: an answer begins where, in a chat, the model's own tokens begin.
        """
        stretches = list(self.stretches(messages))
        tokens = [self.tokenizer.encode(text.encode(), around=False) for text, _ in stretches]
        answer = np.repeat([is_answer for _, is_answer in stretches], [len(each) for each in tokens])
        return Encoded(np.concatenate(tokens), answer)

    def stretches(self, messages: list[Message]) -> Iterator[tuple[str, bool]]:
        """The conversation's text in stretches, each with whether it is an answer."""
        done = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = self.chat.render(messages[:i], answer_next=True), self.chat.render(messages[: i + 1])
            if not (before.startswith(done) and after.startswith(before)):
                raise InputError(
                    "The model's chat template does not write a conversation turn by turn, so its answers cannot be told "
                    "apart; give the model another template."
                )
            answer = after[len(before) :].rstrip()
            yield before[len(done) :], False
            yield answer, True
            done = before + answer


def fit(conversations: Iterable[Encoded], context: int) -> tuple[list[Encoded], int, int]:
    """Those that have an answer within their first `context` tokens, cut to these; and how many were cut, and left out."""
    fitting, num_cut, num_left_out = [], 0, 0
    for conversation in conversations:
        cut = Encoded(conversation.tokens[:context], conversation.answer[:context])
        if not cut.answer[1:].any():  # the first token is predicted from nothing
            num_left_out += 1
            continue
        num_cut += len(cut) < len(conversation)
        fitting.append(cut)
    return fitting, num_cut, num_left_out


def pack(conversations: list[Encoded], context: int) -> list[list[Encoded]]:
    """The conversations in rows of at most `context` tokens: the longest first, each into the first row with room.

    Johnson 1973, "Near-optimal bin packing algorithms": first fit decreasing; at most 11/9 of the fewest rows, and one.
    """
    rows: list[list[Encoded]] = []
    room = np.zeros(len(conversations), np.int64)
    for conversation in sorted(conversations, key=len, reverse=True):
        row = int(np.argmax(room >= len(conversation))) if rows else 0
        if not rows or room[row] < len(conversation):
            row = len(rows)
            rows.append([])
            room[row] = context
        rows[row].append(conversation)
        room[row] -= len(conversation)
    return rows


def columns_of(rows: list[list[Encoded]], context: int) -> Iterator[Columns]:
    """The rows as columns (n, context): tokens, their part of the row from 1 on (0 is padding), and their weight.

    A token that is no answer weighs nothing in the loss. All others weigh the same, and those of a row 1 in the mean: so
    the mean over samples is the mean over tokens, however many answers are in which row.
    """
    weight = len(rows) / sum(conversation.answer[1:].sum() for row in rows for conversation in row)
    for first in range(0, len(rows), CHUNK):
        chunk = rows[first : first + CHUNK]
        tokens, parts = (
            np.zeros((len(chunk), context), rows[0][0].tokens.dtype),
            np.zeros((len(chunk), context), np.uint16),
        )
        weights = np.zeros((len(chunk), context), np.float32)
        for i, row in enumerate(chunk):
            end = 0
            for part, conversation in enumerate(row, start=1):
                place = slice(end, end + len(conversation))
                tokens[i, place], parts[i, place] = conversation.tokens, part
                weights[i, place] = weight * conversation.answer
                weights[i, end] = 0
                end += len(conversation)
        yield {"tokens": tokens, "part": parts, "weight": weights}
