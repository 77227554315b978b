"""Predictions of a table of any length, in a folder: a file for each part of the rows, in their order.

A part's file is the same whoever makes it, and it appears under its name when it is whole. What is there is kept, so work
that was killed goes on where it was; pyarrow, Ray Data and others read the folder as one table.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from onehour.data.prepare import facts_in
from onehour.data.shards import FileSum
from onehour.errors import InputError
from onehour.models.gpt import GPT
from onehour.models.language import Choice, Language
from onehour.recipe import Batch, Recipe
from onehour.show.predictions import own_columns, predict_rows, to_columns
from onehour.training.run import Run, load_trained

WORK = "_work"  # readers of tables pass over names that begin so
CONTINUATION = "continuation"  # the column that a language model adds
TABLE_ROWS = 4096  # rows of a file
BATCHES_OF_PROMPTS = 4  # batches of prompts of a file, which take longer


@dataclass(frozen=True)
class Input:
    """A Parquet file of the input, as it was when the work began."""

    path: str
    num_rows: int
    num_bytes: int
    changed: int
    """Nanoseconds, as the file system tells them."""


@dataclass(frozen=True)
class Continue:
    """How a language model continues the prompts of a table."""

    column: str
    batch_size: int
    choice: Choice


@dataclass(frozen=True)
class Job:
    """All that a process needs to make any part: calling it with the part's number makes its file, unless it is there."""

    folder: Path
    """Where the files go."""
    inputs: tuple[Input, ...]
    model: Path
    """A run's checkpoint, or a pretrained model."""
    run: Path | None
    """The run's folder."""
    how: Continue | None
    """None: the recipe's own `predict`."""
    wanted: Batch | None
    """A sample of the recipe's data: which columns its `predict` reads, and of which types."""

    @property
    def rows_per_part(self) -> int:
        """Rows of a file."""
        return BATCHES_OF_PROMPTS * self.how.batch_size if self.how else TABLE_ROWS

    @property
    def work(self) -> Path:
        """The folder of what is no prediction: what the work is, and the right to do it."""
        return self.folder / WORK

    @property
    def num_rows(self) -> int:
        """Rows of the input."""
        return sum(file.num_rows for file in self.inputs)

    @property
    def parts(self) -> range:
        """The numbers of the parts."""
        return range(-(-self.num_rows // self.rows_per_part))

    def __call__(self, number: int) -> FileSum:
        """Make the file of a part, or find it."""
        path = self.folder / f"part-{number:06}.parquet"
        if not path.is_file():
            first = number * self.rows_per_part
            with one_thread():
                write_whole(self.predict(read_rows(self.inputs, first, first + self.rows_per_part)), path)
        content = path.read_bytes()
        return FileSum(path.name, len(content), hashlib.sha256(content).hexdigest())

    def predict(self, table: pa.Table) -> pa.Table:
        """The predictions for some rows."""
        recipe, model = opened(self.model, self.run, self.how is not None)
        if self.how is None:
            assert isinstance(recipe, Recipe) and isinstance(model, nn.Module)
            assert self.run
            folder, path = self.run / "data", self.inputs[0].path
            rows = own_columns(recipe, table, folder) or to_columns(table, self.wanted or {}, path)
            return predict_rows(recipe, model, rows, facts_in(folder).get("labels"))
        assert isinstance(model, Language)
        prompts, size = prompts_of(table, self.how.column, self.inputs[0].path), self.how.batch_size
        batches = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        texts = [text for batch in batches for text in model.write_all(batch, self.how.choice)]
        return table.append_column(CONTINUATION, pa.array(texts, pa.string()))

    def begin(self) -> None:
        """Make the folder and note there what its files are.

        Raises:
            InputError: there are the files of other work in it, or it cannot be written.
        """
        about = {
            "inputs": [asdict(file) for file in self.inputs],
            "model": str(self.model),
            "how": asdict(self.how) if self.how else None,
        }
        note = self.work / "job.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not any(self.folder.iterdir()):
                self.work.mkdir()
                note.write_text(json.dumps(about, indent=2))
            if not note.is_file() or json.loads(note.read_text()) != json.loads(json.dumps(about)):
                raise InputError(
                    f"{self.folder} holds something else than predictions of this model for these rows with these "
                    "options; name another --output."
                )
            for left in self.folder.glob(".part-*"):  # of a process that was killed
                left.unlink()
        except OSError as error:
            raise InputError(
                f"Predictions cannot be kept in {self.folder} ({error.strerror}); name another --output."
            ) from error


@lru_cache(maxsize=1)
def opened(model: Path, run: Path | None, language: bool) -> tuple[Recipe | None, nn.Module | Language]:
    """The recipe, if there is one, and the model; kept, for the next part that this process makes."""
    if run is None:
        from onehour.models.pretrained import open_pretrained

        return None, Language.of_pretrained(open_pretrained(model))
    recipe, network = load_trained(Run(run), model)
    if not language:
        return recipe, network
    if not isinstance(network, GPT):
        raise InputError(f"The run {run.name} trained no language model, and its recipe has no predict.")
    return recipe, Language.of_folder(network, run / "data")


def find_inputs(path: Path) -> tuple[Input, ...]:
    """A Parquet file, or the Parquet files of a folder by name, with their numbers of rows.

    Raises:
        InputError: there is none, one cannot be read, or there is no row.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise InputError(f"There is no Parquet file at {path}; name one, or a folder of them.")
    try:
        found = [
            Input(str(file.absolute()), pq.read_metadata(file).num_rows, file.stat().st_size, file.stat().st_mtime_ns)
            for file in files
        ]
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}); name a Parquet file.") from error
    if not any(file.num_rows for file in found):
        raise InputError(f"{path} has no rows to predict; name a file that has some.")
    return tuple(found)


def read_rows(inputs: Sequence[Input], first: int, last: int) -> pa.Table:
    """Rows first to last - 1 of all files; of a file, only the row groups in which they are are read."""
    parts = []
    for file in inputs:
        if first < file.num_rows and last > 0:
            parts.append(rows_of_file(Path(file.path), max(first, 0), min(last, file.num_rows)))
        first, last = first - file.num_rows, last - file.num_rows
    return pa.concat_tables(parts)


def rows_of_file(path: Path, first: int, last: int) -> pa.Table:
    """Rows first to last - 1 of a Parquet file."""
    with pq.ParquetFile(path) as file:
        begin, groups, before = 0, [], 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            if begin < last and end > first:
                groups.append(group)
            elif end <= first:
                before = end
            begin = end
        return file.read_row_groups(groups).slice(first - before, last - first)


def prompts_of(table: pa.Table, column: str, path: str) -> list[str]:
    """The prompts in a column.

    Raises:
        InputError: there is no such column, it is not of text, or a cell is empty.
    """
    if column not in table.column_names:
        raise InputError(
            f"{path} has the columns {', '.join(table.column_names)}; name that of the prompts by --column."
        )
    kind = table[column].type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)) or table[column].null_count:
        raise InputError(f"The column {column!r} of {path} is {kind}; it must be text, and no cell may be null.")
    prompts: list[str] = table[column].to_pylist()
    return prompts


@contextmanager
def one_thread() -> Iterator[None]:
    """One core, for the same order of additions in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_whole(table: pa.Table, path: Path) -> None:
    """Write a Parquet file, which has its name when it is whole."""
    new = path.with_name(f".{path.name}-{os.getpid()}")
    pq.write_table(table, new)
    new.rename(path)
