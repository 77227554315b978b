"""Samples in Arrow files: a row is a sample, a column is what becomes one tensor of a batch.

Data is prepared once and read many times, so it is kept as it will be used: fixed-size rows of numbers, uncompressed,
in the Arrow IPC file format. Opening such a file maps it into memory and looks at its first and last record batch; a
row is read from disk when it is asked for, and all worker processes on a machine share one copy in the page cache.
Whatever reads Arrow reads these files too, `pyarrow.ipc.open_file` for one.
"""

import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from onehour.errors import InputError

Columns = dict[str, NDArray[Any]]

BATCH_BYTES = 2**22  # a record batch: large enough that there are few of them, small enough to hold in memory
NUM_ROWS_KEY = b"onehour.rows_per_batch"  # in the schema: all record batches but the last have this many rows
KEPT_BATCHES = 2**13  # record batches that Rows keeps opened: those of 32 GB, at some 2 kB each

# torch has these types but few operations on them. They are kept as they are in the file and widened in the tensor.
WIDENED = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}


def write_rows(path: str | Path | RawIOBase, batches: Iterable[Columns]) -> int:
    """Write columns of shape (n, ...), n rows at a time, to one Arrow file, and return the number of rows.

    All batches have the same names, types and row shapes; n may differ. Memory: one batch and one record batch (4 MiB).
    Without a single row no file is written. Raises InputError if a column does not hold numbers, OSError if the disk
    is full or the like.
    """
    num_rows, writer = 0, None
    for columns in _same_size(batches):
        record_batch = pa.record_batch({name: _to_arrow(name, values) for name, values in columns.items()})
        if writer is None:
            schema = record_batch.schema.with_metadata({NUM_ROWS_KEY: str(record_batch.num_rows)})
            writer = pa.ipc.new_file(path, schema)
        writer.write_batch(record_batch)
        num_rows += record_batch.num_rows
    if writer is not None:
        writer.close()
    return num_rows


def _same_size(batches: Iterable[Columns]) -> Iterator[Columns]:
    """The same rows in batches of about BATCH_BYTES, all of one size; the last may be smaller."""
    waiting: list[Columns] = []
    num_waiting = 0
    for batch in batches:
        num_rows = len(next(iter(batch.values())))
        row_bytes = sum(column.itemsize * math.prod(column.shape[1:]) for column in batch.values())
        size = max(1, BATCH_BYTES // row_bytes)
        waiting.append(batch)
        num_waiting += num_rows
        if num_waiting >= size:
            rows = _join(waiting)
            for start in range(0, num_waiting - size + 1, size):
                yield {name: column[start : start + size] for name, column in rows.items()}
            num_waiting %= size
            waiting = [{name: column[len(column) - num_waiting :] for name, column in rows.items()}]
    if num_waiting:
        yield _join(waiting)


def _join(batches: list[Columns]) -> Columns:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _to_arrow(name: str, values: NDArray[Any]) -> pa.Array:
    if values.dtype.kind not in "iuf":
        raise InputError(
            f"Column {name!r} holds {values.dtype}, but a row holds only numbers: convert it, to uint8 say."
        )
    return pa.array(values) if values.ndim == 1 else pa.FixedShapeTensorArray.from_numpy_ndarray(values)


class Rows:
    """The rows of one or more Arrow files, as one sequence: `rows = Rows(path)`, `len(rows)`, `rows[ids]`.

    It holds no data, pickles as its paths, and opens them again in another process (a DataLoader's worker). Reads what
    `write_rows` wrote, and any Arrow IPC file of plain numbers or fixed-shape tensors without compression or nulls.
    Raises InputError if a file is missing, is not such a file or is cut short, or if the files' columns differ.
    """

    def __init__(self, *paths: str | Path) -> None:
        self.paths = [str(path) for path in paths]
        self._files = [_open(path) for path in self.paths]
        for path, file in zip(self.paths, self._files, strict=True):
            if not file.schema.equals(self._files[0].schema):
                raise InputError(
                    f"{path} holds {_describe(file)}, but {self.paths[0]} holds {_describe(self._files[0])}: "
                    "read files of the same columns together."
                )
        sizes = [_batch_sizes(file) for file in self._files]
        self._of_file = np.repeat(np.arange(len(sizes)), [len(each) for each in sizes])
        self._in_file = np.concatenate([np.arange(len(each)) for each in sizes])
        self._starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        self._opened: dict[int, Columns] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, ids: NDArray[np.int64] | Sequence[int]) -> dict[str, torch.Tensor]:
        """The rows with these ids, (B,), in this order: for each column a new tensor of shape (B, ...).

        Types are those of the file, but for uint16 (int32), uint32 and uint64 (int64). Raises IndexError for an id
        that is not in 0 to len(rows) - 1.
        """
        ids = np.asarray(ids, np.int64)
        batches = np.searchsorted(self._starts, ids, side="right") - 1
        chosen = [(batch, np.flatnonzero(batches == batch)) for batch in np.unique(batches).tolist()]
        tensors = {}
        for name, first in self._columns(0).items():
            gathered = np.empty((len(ids), *first.shape[1:]), WIDENED.get(first.dtype, first.dtype))
            for batch, places in chosen:
                gathered[places] = np.take(self._columns(batch)[name], ids[places] - self._starts[batch], axis=0)
            tensors[name] = torch.from_numpy(gathered)
        return tensors

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in the file."""
        return sum(column[0].nbytes for column in self._columns(0).values())

    def __reduce__(self) -> tuple[type["Rows"], tuple[str, ...]]:
        return Rows, tuple(self.paths)

    def _columns(self, batch: int) -> Columns:
        """One record batch as arrays that look into the mapped file. They are small, so those of a few files are kept."""
        if batch not in self._opened:
            if len(self._opened) == KEPT_BATCHES:
                self._opened.clear()
            table = self._files[self._of_file[batch]].get_batch(self._in_file[batch])
            self._opened[batch] = {name: _to_numpy(name, table.column(name)) for name in table.schema.names}
        return self._opened[batch]


def _open(path: str) -> pa.RecordBatchFileReader:
    try:
        with open(path, "rb") as file:
            # Not pa.memory_map: it asks the kernel for each record batch whole, and a batch of samples is a few rows.
            opened = pa.ipc.open_file(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        if opened.num_record_batches:
            opened.get_batch(opened.num_record_batches - 1)  # the end is there, and in the place that the footer says
        return opened
    except (ValueError, OSError) as error:  # a damaged file is one or the other; one that is not there has an errno
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"Cannot read {path} ({error.strerror}): name an Arrow file that is there.") from error
        raise InputError(f"{path} is not an Arrow file, or not a whole one: prepare it again.") from error


def count_rows(file: Any) -> int:
    """The number of rows of an open Arrow file. Raises pyarrow.ArrowInvalid if it has no end."""
    with pa.ipc.open_file(file) as opened:
        return int(_batch_sizes(opened).sum())


def _batch_sizes(file: pa.RecordBatchFileReader) -> NDArray[np.int64]:
    """The number of rows of each record batch, read from the file's first and last page where write_rows wrote it."""
    num_batches, metadata = file.num_record_batches, file.schema.metadata or {}
    if NUM_ROWS_KEY not in metadata:
        return np.array([file.get_batch(i).num_rows for i in range(num_batches)], np.int64)
    sizes = np.full(num_batches, int(metadata[NUM_ROWS_KEY]))
    sizes[-1] = file.get_batch(num_batches - 1).num_rows
    return sizes


def _to_numpy(name: str, column: pa.Array) -> NDArray[Any]:
    """(n, ...), without a copy."""
    try:
        values: NDArray[Any] = (
            column.to_numpy_ndarray()
            if isinstance(column, pa.FixedShapeTensorArray)
            else column.to_numpy(zero_copy_only=True)
        )
        return values
    except pa.ArrowInvalid as error:
        raise InputError(
            f"Column {name!r} holds {column.type}, but a row holds only numbers: write the file with write_rows."
        ) from error


def _describe(file: pa.RecordBatchFileReader) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in file.schema)
