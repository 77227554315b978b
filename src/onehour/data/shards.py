"""Training data in files that are made one by one, in any process and on any machine: the same bytes everywhere.

A recipe names the pieces (`Recipe.pieces`), each piece becomes a file, and it matters to nobody who makes it. What is
there already is kept, so a preparation that was killed goes on where it was.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSystem, FileType

from onehour.data.arrow import count_rows, write_rows
from onehour.recipe import Recipe


@dataclass(frozen=True)
class FileSum:
    """A prepared file as data.json names it."""

    name: str
    num_bytes: int
    sha256: str
    num_rows: int | None = None
    """Of an Arrow file."""


@dataclass(frozen=True)
class Shards:
    """The files of the training data: calling this with the number of a piece makes its file, unless it is there."""

    recipe: Recipe
    pieces: Sequence[Any]
    target: FileSystem
    """The folder for the files."""
    beside: Sequence[str]
    """Files there that the recipe wants when it makes rows: a tokenizer."""
    known: dict[str, FileSum] | None
    """The files that an earlier preparation has ended with; None: what is there is of other data."""

    def __call__(self, number: int) -> FileSum:
        """Make the file of one piece, or find it whole; without a single row there is none."""
        name = shard_name(number, len(self.pieces))
        found = self.find(name) if self.known is not None else None
        return found or self.make(name, self.pieces[number])

    def find(self, name: str) -> FileSum | None:
        """The file of this name, if it is there and whole."""
        assert self.known is not None
        there = sum_of(self.target, name)
        if there and name in self.known:
            return self.known[name] if self.known[name].sha256 == there.sha256 else None
        return there and with_rows(there, self.target)

    def make(self, name: str, piece: Any) -> FileSum:
        """Write the rows of a piece straight to the target."""
        with tempfile.TemporaryDirectory() as folder:
            for file in self.beside:
                with self.target.open_input_stream(file) as there:
                    (Path(folder) / file).write_bytes(there.read())
            with self.target.open_output_stream(name) as there:
                summed = Summed(there)
                num_rows = write_rows(summed, self.recipe.rows_of(piece, Path(folder)))
        if not num_rows:
            self.target.delete_file(name)
        return FileSum(name, summed.num_bytes, summed.sha256.hexdigest(), num_rows)


class Summed(RawIOBase):
    """Passes what is written on to `file`, and adds it up on the way."""

    def __init__(self, file: pa.NativeFile) -> None:
        self.file, self.num_bytes, self.sha256 = file, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.num_bytes += len(data)
        self.file.write(data)
        return len(data)


def shard_name(number: int, num_pieces: int) -> str:
    """The name of the file of a piece."""
    return "train.arrow" if num_pieces == 1 else f"train-{number:05d}.arrow"


def sum_of(folder: FileSystem, name: str) -> FileSum | None:
    """Size and sum of a file; None if it is not there."""
    info = folder.get_file_info(name)
    if info.type != FileType.File:
        return None
    with folder.open_input_stream(name) as file:
        return FileSum(name, info.size, hashlib.file_digest(file, "sha256").hexdigest())


def with_rows(file: FileSum, folder: FileSystem) -> FileSum | None:
    """The same with the number of rows; None if it is no Arrow file, or not to its end."""
    try:
        with folder.open_input_file(file.name) as opened:
            return replace(file, num_rows=count_rows(opened))
    except (pa.ArrowException, OSError):
        return None
