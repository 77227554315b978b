"""Predictions of a trained model for rows of data."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from onehour.data.arrow import Rows
from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.recipe import Batch, Recipe
from onehour.show.table import align
from onehour.show.terminal import count

BATCH_SIZE = 256
NUM_SHOWN = 10


class Columns:
    """Columns in memory, read like `Rows`: `columns[ids]` is a batch."""

    def __init__(self, columns: dict[str, NDArray[np.generic]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, ids: Sequence[int]) -> Batch:
        return {name: torch.from_numpy(column[np.asarray(ids)]) for name, column in self.columns.items()}


class Known(dict[str, torch.Tensor]):
    """A batch that says so when a column is asked for that it lacks."""

    def __missing__(self, name: str) -> torch.Tensor:
        raise InputError(f"The recipe predicts from the column {name!r}, and the input has only {', '.join(self)}.")


def check(recipe: Recipe, output: Path | None) -> None:
    """Find out before any work whether the recipe predicts, and whether predictions can be called `output`.

    Raises:
        InputError: one of them is not so.
    """
    if type(recipe).predict is Recipe.predict:
        recipe.predict(nn.Identity(), {})  # says so
    if output and output.suffix != ".parquet":
        raise InputError(f"--output {output} would be a Parquet file; call it {output.with_suffix('.parquet')}.")


def read_input(recipe: Recipe, path: Path | None, folder: Path) -> Rows | Columns:
    """The rows to predict: a Parquet, Arrow or CSV file, or without a path the recipe's held-out samples.

    The file has the recipe's columns; a cell is a number or a list of numbers, unless the recipe reads something else.
    Columns that it lacks, such as a label, are left out. `folder` is that of the run's data.

    Raises:
        InputError: the file is not there, has no rows or none of the columns, or they hold something else.
    """
    if path is None:
        return prepare(recipe).held_out
    table = read_table(path)
    return own_columns(recipe, table, folder) or to_columns(table, prepare(recipe).held_out[[0]], str(path))


def own_columns(recipe: Recipe, table: pa.Table, folder: Path) -> Columns | None:
    """What a recipe that reads something else than numbers makes of a table; None if it does not."""
    if not len(table):
        return None  # to_columns says so
    columns = recipe.read(table, folder)
    return None if columns is None else Columns(columns)


def to_columns(table: pa.Table, wanted: Batch, path: str) -> Columns:
    """The columns of a table that a recipe wants, of the types that it wants; `path` is named in errors.

    Raises:
        InputError: the table has no rows or none of the columns, or they hold something else.
    """
    there = [name for name in wanted if name in table.column_names]
    if not there:
        raise InputError(
            f"{path} has the columns {', '.join(table.column_names)}; the recipe wants {', '.join(wanted)}."
        )
    if not len(table):
        raise InputError(f"{path} has no rows to predict; name a file that has some.")
    return Columns({name: to_array(table[name], wanted[name], f"{path}: the column {name!r}") for name in there})


def read_table(path: Path) -> pa.Table:
    """The whole of a Parquet, Arrow or CSV file; InputError if it is none of them."""
    if not path.exists():
        raise InputError(f"There is no file {path}; name a Parquet or an Arrow file.")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix == ".csv":
            return pa.csv.read_csv(path)
        with pa.ipc.open_file(str(path)) as file:
            return file.read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); name a Parquet or an Arrow file."
        ) from error


def to_array(column: pa.ChunkedArray, like: torch.Tensor, what: str) -> NDArray[np.generic]:
    """A column of numbers, or of lists of as many numbers as a row of `like` has, as an array (N, *shape) of its type.

    Raises:
        InputError: it is another column; `what` says which.
    """
    values, shape = column.combine_chunks(), tuple(like.shape[1:])
    size, each = int(np.prod(shape)), f"{' x '.join(map(str, shape))} numbers" if shape else "a number"
    refusal = InputError(f"{what} is {column.type}; each cell must be {each}, and none may be empty.")
    while isinstance(values, pa.ExtensionArray) or pa.types.is_nested(values.type):
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
            continue
        if pa.types.is_struct(values.type) or values.null_count or len(pc.unique(pc.list_value_length(values))) > 1:
            raise refusal
        values = values.flatten()
    if not is_number(values.type) or values.null_count or len(values) != len(column) * size:
        raise refusal
    array: NDArray[np.generic] = values.to_numpy(zero_copy_only=False).reshape(len(column), *shape)
    return array.astype(like.numpy().dtype)


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type are numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


@torch.no_grad()
def predict_rows(
    recipe: Recipe, model: nn.Module, rows: Rows | Columns, labels: Sequence[str] | None = None
) -> pa.Table:
    """The recipe's predictions for all rows, in order, beside the labels if there are any; where these have names, by name.

    Raises:
        InputError: the rows lack a column that the recipe wants, or its `predict` fails.
    """
    parts = []
    for ids in batches(len(rows)):
        batch = rows[ids]
        predicted = recipe.predict(model, Known(batch))
        known = {name: column for name, column in batch.items() if column.dim() == 1}
        cells = {name: column.tolist() for name, column in (known | predicted).items()}
        for name in {"label", "prediction"} & set(cells) if labels else ():
            cells[name] = [labels[number] for number in cells[name]]  # type: ignore[index]
        parts.append(pa.table(cells))
    return pa.concat_tables(parts)


def batches(num_rows: int) -> Iterator[range]:
    """Ranges of ids that together are all rows."""
    for first in range(0, num_rows, BATCH_SIZE):
        yield range(first, min(first + BATCH_SIZE, num_rows))


def write_predictions(predictions: pa.Table, path: Path) -> None:
    """Write a Parquet file; InputError if it cannot be."""
    try:
        with path.open("wb") as file:
            pq.write_table(predictions, file)
    except OSError as error:
        raise InputError(
            f"The predictions cannot be written to {path}: {error.strerror or error}; choose another --output."
        ) from error


def predictions_text(predictions: pa.Table) -> str:
    """The first predictions as a table, and how many are right if the labels are known."""
    first = predictions.slice(0, NUM_SHOWN)
    cells = [[cell_text(value) for value in column.to_pylist()] for column in first.columns]
    text = align([predictions.column_names, *map(list, zip(*cells, strict=True))])
    if len(predictions) > NUM_SHOWN:
        text += "\n... and so on; --output FILE.parquet writes them all"
    total = f"\n\n{count(len(predictions), 'row')}"
    if {"label", "prediction"} <= set(predictions.column_names):
        right = sum(a == b for a, b in zip(*(predictions[n].to_pylist() for n in ("label", "prediction")), strict=True))
        total += f", {right:,} right ({right / len(predictions):.2%})"
    return text + total


def cell_text(value: object) -> str:
    """A value of a prediction in a few characters; of a list the first numbers."""
    if isinstance(value, list):
        return f"[{', '.join(map(cell_text, value[:3]))}{', ...' if len(value) > 3 else ''}]"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
