"""Samples in Arrow files: a row is a sample, a column is what becomes one tensor of a batch.

Data is prepared once and read many times, so it is kept as it will be used: fixed-size rows of numbers, uncompressed,
in the Arrow IPC file format. Opening such a file maps it into memory and looks at three of its record batches; a
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

# torch has these types but few operations on them. They are kept as they are in the file and widened in the tensor.
WIDENED: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(narrow): np.dtype(wide)
    for narrow, wide in ((np.uint16, np.int32), (np.uint32, np.int64), (np.uint64, np.int64))
}


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
        files = [_File(path) for path in self.paths]
        for file in files:
            if not file.schema.equals(files[0].schema):
                raise InputError(
                    f"{file.path} holds {_describe(file.schema)}, but {files[0].path} holds "
                    f"{_describe(files[0].schema)}: read files of the same columns together."
                )
        self._file_of = np.repeat(np.arange(len(files)), [len(file.sizes) for file in files])
        self._starts = np.concatenate([[0], np.cumsum(np.concatenate([file.sizes for file in files]))])
        self._columns = {name: _Column(name, files) for name in files[0].schema.names}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, ids: NDArray[np.int64] | Sequence[int]) -> dict[str, torch.Tensor]:
        """The rows with these ids, (B,), in this order: for each column a new tensor of shape (B, ...).

        Types are those of the file, but for uint16 (int32), uint32 and uint64 (int64). Raises IndexError for an id
        that is not in 0 to len(rows) - 1.
        """
        ids = np.asarray(ids, np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise IndexError(f"There are rows 0 to {len(self) - 1}, and {ids.min()} to {ids.max()} were asked for.")
        batches = np.searchsorted(self._starts, ids, side="right") - 1
        files, places = self._file_of[batches], ids - self._starts[batches]
        return {name: torch.from_numpy(each.gather(files, batches, places)) for name, each in self._columns.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in the file."""
        return sum(column.row_items * column.windows[0].itemsize for column in self._columns.values())

    def __reduce__(self) -> tuple[type["Rows"], tuple[str, ...]]:
        return Rows, tuple(self.paths)


class _Column:
    """A column of some files, whose rows are copied from where they are, whatever their record batches.

    Numpy copies rows of one array at once, and a file's record batches are many. But a file that is mapped into memory is
    one piece, so each file is seen as one array of all rows that could begin anywhere in it, which takes no memory:
    `windows[f][i]` begins at item i of file f. A row is number `begins[batch] + place * row_items` of them.
    """

    def __init__(self, name: str, files: list["_File"]) -> None:
        rows = files[0].column(name, int(files[0].sizes.argmax()))  # not of none, which have no shape of a row
        self.type = WIDENED.get(rows.dtype, rows.dtype)
        self.row_items = math.prod(rows.shape[1:])
        self.begins = np.concatenate([file.begins(name) for file in files]) // rows.itemsize
        self.windows = [file.windows(rows) for file in files]

    def gather(self, files: NDArray[np.int64], batches: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at these places of these record batches of these files, (B,) each: (B, ...), a copy."""
        at = self.begins[batches] + places * self.row_items
        if len(self.windows) == 1:
            return self.windows[0][at].astype(self.type, copy=False)
        gathered = np.empty((len(at), *self.windows[0].shape[1:]), self.type)
        for file in np.unique(files):
            here = np.flatnonzero(files == file)
            gathered[here] = self.windows[file][at[here]]
        return gathered


class _File:
    """An Arrow file that is mapped into memory."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                # Not pa.memory_map: it asks the kernel for each record batch whole, and a batch of samples is a few rows.
                self.mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            self.reader = pa.ipc.open_file(pa.py_buffer(self.mapped))
            self.reader.get_batch(self.reader.num_record_batches - 1)  # it is there, where the footer says
        except (ValueError, OSError) as error:  # a damaged file is one or the other; one that is not there has an errno
            if isinstance(error, OSError) and error.errno:
                raise InputError(f"Cannot read {path} ({error.strerror}): name an Arrow file that is there.") from error
            raise InputError(f"{path} is not an Arrow file, or not a whole one: prepare it again.") from error
        self.schema, self.sizes = self.reader.schema, _batch_sizes(self.reader)

    def column(self, name: str, batch: int) -> NDArray[Any]:
        """A column of one record batch, (n, ...): it looks into the mapped file."""
        return _to_numpy(name, self.reader.get_batch(batch).column(name))

    def begins(self, name: str) -> NDArray[np.int64]:
        """Where a column begins in each record batch, in bytes. write_rows makes all but the last alike: three tell it."""
        last = self.reader.num_record_batches - 1
        if NUM_ROWS_KEY not in (self.schema.metadata or {}):
            return np.array([self._begin(name, batch) for batch in range(last + 1)])
        first, second = self._begin(name, 0), self._begin(name, min(1, last))
        return np.append(first + (second - first) * np.arange(last), self._begin(name, last))

    def _begin(self, name: str, batch: int) -> int:
        column = self.column(name, batch)
        begin = column.ctypes.data - self.mapped.ctypes.data
        if column.size and not 0 <= begin < self.mapped.size:
            raise InputError(f"{self.path} is compressed: write it uncompressed, as write_rows does.")
        return begin

    def windows(self, like: NDArray[Any]) -> NDArray[Any]:
        """All rows such as those of `like` that could begin at an item of this file, (items, ...), without a copy."""
        num_items = self.mapped.size // like.itemsize - math.prod(like.shape[1:]) + 1
        strides = (like.itemsize, *like.strides[1:])
        return np.ndarray((num_items, *like.shape[1:]), like.dtype, self.mapped, strides=strides)


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


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)
