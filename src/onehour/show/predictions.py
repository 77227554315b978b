"""Predictions of a trained model for rows of data."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from onehour.data.arrow import Rows
from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.recipe import Batch, Recipe
from onehour.show.table import align

BATCH_SIZE = 256
NUM_SHOWN = 10


class Columns:
    """Columns in memory, read like `Rows`: `columns[ids]` is a batch."""

    def __init__(self, columns: dict[str, NDArray[np.generic]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, ids: Sequence[int]) -> Batch:
        return {name: torch.from_numpy(column[list(ids)]) for name, column in self.columns.items()}


def read_input(recipe: Recipe, path: Path | None) -> Rows | Columns:
    """The rows to predict: an Arrow or Parquet file, or without a path the recipe's held-out samples.

    A Parquet file has the recipe's columns; a cell is a number or a list of numbers. Columns that it lacks, such as a
    label, are left out.

    Raises:
        InputError: the file is not there, or has none of the columns.
    """
    held_out = prepare(recipe).held_out
    if path is None:
        return held_out
    if path.suffix != ".parquet":
        return Rows(path)
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"Cannot read {path}: {str(error).splitlines()[0]}; name a Parquet or an Arrow file.") from error
    wanted = held_out[[0]]
    columns = {n: to_array(table[n], tuple(c.shape[1:])) for n, c in wanted.items() if n in table.column_names}
    if not columns:
        raise InputError(f"{path} has the columns {', '.join(table.column_names)}; the recipe wants {', '.join(wanted)}.")
    return Columns({name: column.astype(wanted[name].numpy().dtype) for name, column in columns.items()})


def to_array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """A column as an array (N, *shape)."""
    return np.array(column.to_pylist()).reshape(len(column), *shape)


@torch.no_grad()
def predict_rows(recipe: Recipe, model: nn.Module, rows: Rows | Columns) -> pa.Table:
    """The recipe's predictions for all rows, in order, beside the labels if there are any."""
    parts = []
    for ids in batches(len(rows)):
        batch = rows[ids]
        predicted = recipe.predict(model, batch)
        known = {name: column for name, column in batch.items() if column.dim() == 1}
        parts.append(pa.table({name: column.tolist() for name, column in (known | predicted).items()}))
    return pa.concat_tables(parts)


def batches(num_rows: int) -> Iterator[range]:
    """Ranges of ids that together are all rows."""
    for first in range(0, num_rows, BATCH_SIZE):
        yield range(first, min(first + BATCH_SIZE, num_rows))


def write_predictions(predictions: pa.Table, path: Path) -> None:
    """Write a Parquet file; InputError if it cannot be."""
    try:
        pq.write_table(predictions, path)
    except OSError as error:
        raise InputError(f"The predictions cannot be written to {path}: {error.strerror or error}; choose another --output.") from error


def predictions_text(predictions: pa.Table) -> str:
    """The first predictions as a table, and how many are right if the labels are known."""
    first = predictions.slice(0, NUM_SHOWN)
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in column.to_pylist()] for column in first.columns]
    text = align([predictions.column_names, *map(list, zip(*cells, strict=True))])
    total = f"\n{len(predictions):,} rows"
    if {"label", "prediction"} <= set(predictions.column_names):
        right = sum(a == b for a, b in zip(predictions["label"], predictions["prediction"], strict=True))
        total += f", {right:,} right ({right / len(predictions):.2%})"
    return text + total
