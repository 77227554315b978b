"""Conversations from files of JSON lines, JSON or Parquet, in the forms in which they are published.

A row that says nothing a model could learn from ends the reading, with the file and the line named: none is left out.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from onehour.data.chat import Message
from onehour.data.sources import Source
from onehour.data.text import is_parquet, open_parquet, read_file
from onehour.errors import InputError

Row = dict[str, Any]
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


@dataclass(frozen=True)
class Conversation:
    """What was said, and where it stands."""

    name: str  # of its source, and the number of its line or row: the same on every machine
    messages: list[Message]


def read_conversations(sources: Sequence[Source]) -> Iterator[Conversation]:
    """One conversation after another: a line of a .jsonl file, an entry of a .json file, or a row of a Parquet file.

    Raises:
        InputError: a file is none of these, or a row holds no conversation; names the line.
    """
    for source in sources:
        for number, row in rows_of(source):
            yield Conversation(f"{source.name}#{number}", messages_of(row, f"{source.path}, {place(source, number)}"))


def rows_of(source: Source) -> Iterator[tuple[int, Any]]:
    """The rows of a file with their numbers: lines count from 1, rows of a Parquet file from 0."""
    if is_parquet(source):
        with open_parquet(source) as parquet:
            batches = parquet.iter_batches(batch_size=1024)
            yield from enumerate(row for batch in batches for row in batch.to_pylist())
    elif source.name.endswith(".json"):
        entries = parsed(read_file(source), source.path)
        yield from enumerate(entries if isinstance(entries, list) else [entries])
    else:
        lines = enumerate(read_file(source).splitlines(), start=1)
        yield from ((number, parsed(line, f"{source.path}, line {number}")) for number, line in lines if line.strip())


def place(source: Source, number: int) -> str:
    """Where in a file a row stands, in words."""
    return f"{'row' if source.name.endswith(('.parquet', '.json')) else 'line'} {number}"


def parsed(text: bytes, where: str) -> Any:
    """What JSON says; InputError if it is none."""
    try:
        return json.loads(text)
    except ValueError as error:  # of JSON or of UTF-8
        raise InputError(f"{where} is no JSON ({error}); mend it or take it out.") from error


def messages_of(row: Any, where: str) -> list[Message]:
    """The messages of a row in one of the known forms.

    Raises:
        InputError: it has none of them, or what it says is no conversation with an answer in it.
    """
    for columns, read in FORMS.items():
        if isinstance(row, dict) and all(row.get(column) is not None for column in columns):
            messages = [message_of(*said, where) for said in read(row)]
            if not any(message["role"] == "assistant" for message in messages):
                raise InputError(f"{where} has no answer of an assistant in it; mend it or take it out.")
            return messages
    there = ", ".join(row) if isinstance(row, dict) else type(row).__name__
    raise InputError(f"{where} has {there or 'nothing'}; a row holds {' or '.join(map(' and '.join, FORMS))}.")


def message_of(role: Any, content: Any, where: str) -> Message:
    """One message, checked."""
    if role not in ROLES or not isinstance(content, str):
        raise InputError(
            f"{where} has a message of the role {role!r} with {type(content).__name__} as its content; roles are "
            f"{', '.join(ROLES)}, and content is text."
        )
    return {"role": ROLES[role], "content": content}


Said = list[tuple[Any, Any]]


def of_messages(row: Row) -> Said:
    """As OpenAI and Hugging Face write them."""
    return [(get(message, "role"), get(message, "content")) for message in row["messages"]]


def of_sharegpt(row: Row) -> Said:
    """As ShareGPT wrote them."""
    return [(get(message, "from"), get(message, "value")) for message in row["conversations"]]


def of_alpaca(row: Row) -> Said:
    """As Alpaca wrote them: an instruction, what it is about if that is apart, and the answer."""
    return [("user", "\n\n".join(filter(None, [row["instruction"], row.get("input")]))), ("assistant", row["output"])]


def of_prompt(row: Row) -> Said:
    """A prompt and its completion, each a text or a list of messages, as TRL writes them."""
    both: Said = []
    for column, role in (("prompt", "user"), ("completion", "assistant")):
        said = row[column]
        both += [(role, said)] if isinstance(said, str) else of_messages({"messages": said})
    return both


def get(message: Any, name: str) -> Any:
    """What a message says under a name; None if it is no message."""
    return message.get(name) if isinstance(message, dict) else None


FORMS: dict[tuple[str, ...], Callable[[Row], Said]] = {
    ("messages",): of_messages,
    ("conversations",): of_sharegpt,
    ("instruction", "output"): of_alpaca,
    ("prompt", "completion"): of_prompt,
}
