"""Files of text and Parquet as documents of bytes, those held out apart, cut into pieces and into windows of tokens.

Text stays bytes from end to end, so whatever a file holds can be trained on, UTF-8 or not, and everything streams: a
document is in memory while it is read, the corpus never is.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from onehour.data.sources import Source, reason
from onehour.errors import InputError

CHUNK_TOKENS = 2**22
PIECE_BYTES = 2**26  # of text: some seconds of work, and a corpus of less than this stays one piece
NUM_PIECES = 200  # the most there are: each becomes a file that is held open, and macOS gives a process 256
NUM_READERS = 32  # threads that wait for the ends of Parquet files


@dataclass(frozen=True)
class Piece:
    """Documents of a corpus that follow each other, or all of them."""

    sources: Sequence[Source]
    by_document: bool  # whether whole documents are held out, or else the last tenth of each


def read_documents(
    sources: Sequence[Source], column: str = "text", keep: Callable[[str], bool] = lambda name: True
) -> Iterator[bytes]:
    """One document after another, those whose name `keep` accepts: a file of text, or a row of `column` of a Parquet.

    The name is that of the source, for Parquet followed by # and the number of the row. Among several files, those
    with a zero byte near their beginning are pictures, archives and the like (git's rule) and are passed over; a file
    that was found alone is taken as it is. Raises InputError if a file cannot be read, or has no such column of text.
    """
    for source in sources:
        if is_parquet(source):
            yield from (text for row, text in _read_rows(source, column) if keep(f"{source.name}#{row}"))
        elif keep(source.name):
            text = read_file(source)
            if source.alone or b"\0" not in text[:8000]:
                yield text


def split_documents(sources: Sequence[Source], column: str = "text") -> tuple[Iterator[bytes], Iterator[bytes]]:
    """The documents to train on and those to evaluate on: two iterators, each of which reads on its own.

    Whole documents are held out (`is_held_out`). Where that would leave one side empty, as with a single file, the
    last tenth of each document is held out instead.
    """
    corpus = Piece(sources, _has_both_sides(sources))
    return train_documents(corpus, column), held_out_documents(corpus, column)


def train_documents(piece: Piece, column: str = "text") -> Iterator[bytes]:
    """The documents of a piece to train on."""
    if piece.by_document:
        return read_documents(piece.sources, column, keep=lambda name: not is_held_out(name))
    return (text[: _last_tenth(text)] for text in read_documents(piece.sources, column))


def held_out_documents(piece: Piece, column: str = "text") -> Iterator[bytes]:
    """The documents of a piece to evaluate on."""
    if piece.by_document:
        return read_documents(piece.sources, column, keep=is_held_out)
    return (text[_last_tenth(text) :] for text in read_documents(piece.sources, column))


def cut(sources: Sequence[Source], column: str = "text") -> list[Piece]:
    """A corpus in pieces, each of which can be read by itself: files, or row groups of Parquet files, in their order.

    A piece has PIECE_BYTES of text or a little more, so a smaller corpus is one piece; of a corpus of more than
    NUM_PIECES such pieces they are larger. They depend on the files alone. Of Parquet files the ends are read. Raises
    InputError if one cannot be read, or has no such column of text.
    """
    with ThreadPoolExecutor(NUM_READERS) as readers:
        groups_of = list(readers.map(partial(_groups, column=column), sources))
    limit = max(PIECE_BYTES, sum(size for groups in groups_of for _, size in groups) // NUM_PIECES)
    pieces: list[list[Source]] = [[]]
    filled = 0
    for source, groups in zip(sources, groups_of, strict=True):
        first = row = first_row = 0
        for stop, (num_rows, size) in enumerate(groups, start=1):
            row += num_rows
            filled += size
            if filled >= limit or stop == len(groups):
                pieces[-1].append(replace(source, groups=range(first, stop), first_row=first_row))
                first, first_row = stop, row
            if filled >= limit:
                pieces.append([])
                filled = 0
    by_document = _has_both_sides(sources)
    return [Piece(piece, by_document) for piece in pieces if piece]


def _groups(source: Source, column: str) -> list[tuple[int, int]]:
    """Documents and bytes of text in each row group of a Parquet file; another file is one document."""
    if not is_parquet(source):
        return [(1, source.size or 0)]
    with open_parquet(source) as parquet:
        _check_column(parquet, source, column)
        metadata = parquet.metadata
        place = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index(column)
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        return [(group.num_rows, group.column(place).total_uncompressed_size) for group in groups]


def _has_both_sides(sources: Iterable[Source]) -> bool:
    """Whether holding out whole documents leaves some to train on, and holds some out."""
    sides = set()
    for name in _document_names(sources):
        sides.add(is_held_out(name))
        if len(sides) == 2:
            return True
    return False


def _last_tenth(text: bytes) -> int:
    return character_at(text, len(text) * 9 // 10)


def character_at(text: bytes, place: int) -> int:
    """The place where the UTF-8 character begins that `place` lies in: text is cut between characters."""
    while place < len(text) and place > 0 and text[place] & 0xC0 == 0x80:
        place -= 1
    return place


def is_held_out(name: str) -> bool:
    """Whether the document of this name is for evaluation: one in ten is, the same ones on every machine."""
    return int.from_bytes(by_chance(name)) % 10 == 0


def by_chance(name: str) -> bytes:
    """A key that sorts names at random, the same way on every machine: their SHA-256."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def windows(documents: Iterable[NDArray[Any]], context: int) -> Iterator[NDArray[Any]]:
    """Cut the documents, joined end to end, into rows of context + 1 tokens: arrays (n, context + 1).

    A row begins with the last token of the row before, so each token but the very first is to be predicted exactly
    once. What does not fill a row at the end is left out; fewer than context + 1 tokens give nothing at all. Documents
    are (length,) arrays of one type, which the rows keep; n * context is about 4 million or less.
    """
    num_rows = max(1, CHUNK_TOKENS // context)
    waiting: list[NDArray[Any]] = []
    num_waiting = 0
    for document in documents:
        waiting.append(document)
        num_waiting += len(document)
        if num_waiting > num_rows * context:
            tokens = np.concatenate(waiting)
            while len(tokens) > num_rows * context:
                yield _rows(tokens[: num_rows * context + 1], context)
                tokens = tokens[num_rows * context :]
            waiting, num_waiting = [tokens], len(tokens)
    if num_waiting > context:
        yield _rows(np.concatenate(waiting), context)


def _rows(tokens: NDArray[Any], context: int) -> NDArray[Any]:
    return sliding_window_view(tokens, context + 1)[::context]


def read_file(source: Source) -> bytes:
    """The bytes of a file; InputError if it cannot be read."""
    try:
        return bytes(source.filesystem.cat_file(source.path))
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"Cannot read {source.path} ({reason(error)}): name text that can be read.") from error


def is_parquet(source: Source) -> bool:
    """Whether a file is one of Parquet, by its name."""
    return source.name.endswith(".parquet")


def _document_names(sources: Iterable[Source]) -> Iterator[str]:
    for source in sources:
        if is_parquet(source):
            with open_parquet(source) as parquet:
                yield from (f"{source.name}#{row}" for row in range(parquet.metadata.num_rows))
        else:
            yield source.name


def _read_rows(source: Source, column: str) -> Iterator[tuple[int, bytes]]:
    with open_parquet(source) as parquet:
        _check_column(parquet, source, column)
        # A row group may be larger than memory should be; a thousand rows at a time are not.
        batches = parquet.iter_batches(batch_size=1024, columns=[column], row_groups=source.groups)
        values = (value for batch in batches for value in batch.column(0).cast(pa.large_binary()))
        yield from ((row, value.as_py()) for row, value in enumerate(values, source.first_row) if value.is_valid)


def _check_column(parquet: pq.ParquetFile, source: Source, column: str) -> None:
    """Raise InputError unless the file has a column of this name, and text in it."""
    types = {field.name: str(field.type) for field in parquet.schema_arrow}
    texts = [name for name, type_ in types.items() if type_ in ("string", "large_string", "binary", "large_binary")]
    if column not in texts:
        there_is = f"has {types[column]} in its column" if column in types else "has no column"
        raise InputError(
            f"{source.path} {there_is} {column!r}: name the column of the text, "
            f"one of {', '.join(map(repr, texts or types))}."
        )


@contextmanager
def open_parquet(source: Source) -> Iterator[pq.ParquetFile]:
    """A Parquet file, open; InputError if it cannot be read."""
    try:
        with source.filesystem.open(source.path, "rb") as file:
            yield pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.path} is not a Parquet file that can be read ({error}): name another.") from error
