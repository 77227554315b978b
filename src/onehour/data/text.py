"""Where text comes from: files, folders, globs and Parquet, on this machine or behind any URI, as documents of bytes.

Without a choice it is the source of the Python standard library that runs this program: real text of some 12 MB that
every machine has. Text stays bytes from end to end, so whatever a file holds can be trained on, UTF-8 or not, and
everything streams: a document is in memory while it is read, the corpus never is.
"""

import difflib
import hashlib
import sysconfig
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

from onehour.errors import InputError

# Tests, other people's packages and generated files: not what one would show somebody as the library.
NOT_THE_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "ensurepip", "_vendor", "turtledemo"}
    | {"__pycache__"}
)
# What the file systems call the time of the last change, or else the version.
MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "created", "ETag")
CHUNK_TOKENS = 2**22
PIECE_BYTES = 2**26  # of text: some seconds of work, and a corpus of less than this stays one piece
NUM_PIECES = 200  # the most there are: each becomes a file that is held open, and macOS gives a process 256
NUM_READERS = 32  # threads that wait for the ends of Parquet files


@dataclass(frozen=True)
class Source:
    """One file of text or Parquet, or some row groups of a Parquet file, wherever it is."""

    name: str  # relative to what was asked for, with forward slashes: the same on every machine
    path: str  # as its file system knows it
    filesystem: Any  # an fsspec file system
    size: int | None  # bytes; some web servers do not say
    modified: str
    alone: bool = False  # nothing else was found
    groups: range | None = None  # the row groups of a Parquet file that are meant; None: all of them
    first_row: int = 0  # of the first of them


@dataclass(frozen=True)
class Piece:
    """Documents of a corpus that follow each other, or all of them."""

    sources: Sequence[Source]
    by_document: bool  # whether whole documents are held out, or else the last tenth of each


def find_text(where: str | None = None) -> list[Source]:
    """The files of text at `where`, sorted by name.

    `where` is a file, a folder (with all below it), a glob, or a Parquet file or folder of them; a local path or a URI
    (s3://, gs://, https://, hf://, memory:// and what else fsspec opens). None is the Python standard library. Hidden
    files are left out. Raises InputError if there is nothing there or it cannot be read.
    """
    if where is None:
        return standard_library()
    filesystem, path = _file_system(where)
    try:
        base, files = _look(filesystem, path)
    except FileNotFoundError as error:
        near = " or ".join(repr(name) for name in _near_names(filesystem, path))
        hint = f"did you mean {near}?" if near else "name a file, a folder, a glob or a Parquet file that is there."
        raise InputError(f"There is nothing at {where}: {hint}") from error
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"Cannot read {where} ({_reason(error)}): name text that can be read.") from error
    if not files:
        raise InputError(f"There are no files of text at {where}: name a file, a folder or a glob that has some.")
    return _sources(filesystem, base, files)


def standard_library() -> list[Source]:
    """The .py files of the running interpreter's standard library, without tests and packages, sorted by name."""
    filesystem, folder = _file_system(sysconfig.get_paths()["stdlib"])
    files = [file for file in _files_below(filesystem, folder, NOT_THE_LIBRARY) if file["name"].endswith(".py")]
    if not files:
        raise InputError(f"This Python has no sources in {folder}: name a file or a folder of text to train on.")
    return _sources(filesystem, folder, files)


def fingerprint(sources: Iterable[Source]) -> str:
    """A hash of the files' names, sizes and times of change: 64 hex digits. No file is opened."""
    lines = [f"{source.name}\0{source.size}\0{source.modified}\n" for source in sources]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def read_documents(
    sources: Sequence[Source], column: str = "text", keep: Callable[[str], bool] = lambda name: True
) -> Iterator[bytes]:
    """One document after another, those whose name `keep` accepts: a file of text, or a row of `column` of a Parquet.

    The name is that of the source, for Parquet followed by # and the number of the row. Among several files, those
    with a zero byte near their beginning are pictures, archives and the like (git's rule) and are passed over; a file
    that was found alone is taken as it is. Raises InputError if a file cannot be read, or has no such column of text.
    """
    for source in sources:
        if _is_parquet(source):
            yield from (text for row, text in _read_rows(source, column) if keep(f"{source.name}#{row}"))
        elif keep(source.name):
            text = _read_file(source)
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
    if not _is_parquet(source):
        return [(1, source.size or 0)]
    with _open_parquet(source) as parquet:
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
    return int(hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest(), 16) % 10 == 0


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


def _file_system(where: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URI, and the path in it."""
    # Imported here: text on a cluster comes prepared, and then nobody needs it.
    from fsspec.core import url_to_fs
    from fsspec.implementations.arrow import ArrowFSWrapper

    try:
        if where.startswith(("s3://", "gs://", "gcs://")):  # pyarrow has these built in, fsspec wants packages for them
            arrow, path = pyarrow.fs.FileSystem.from_uri(where)
            return ArrowFSWrapper(arrow), path
        filesystem, path = url_to_fs(where)
        return filesystem, path
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"Cannot open {where} ({error}): name a path or a URI that fsspec opens here.") from error


def _look(filesystem: Any, path: str) -> tuple[str, list[dict[str, Any]]]:
    """What is at this path: the folder that names are relative to, and fsspec's description of each file."""
    if any(sign in path for sign in "*?[") and not filesystem.exists(path):
        base = path[: min(path.find(sign) for sign in "*?[" if sign in path)].rpartition("/")[0]
        found = [_follow_link(filesystem, info) for info in filesystem.glob(path, detail=True).values()]
        hidden_too = "/." in path[len(base) :]  # as in a shell: only a pattern that says so finds hidden files
        return base, [f for f in found if f["type"] == "file" and (hidden_too or "/." not in f["name"][len(base) :])]
    info = filesystem.info(path)
    if info["type"] == "directory":
        return path, list(_files_below(filesystem, path))
    return path.rpartition("/")[0], [info]


def _files_below(filesystem: Any, folder: str, skip: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    # fsspec's own walk leaves out what it may not read, and says nothing.
    for listed in filesystem.ls(folder, detail=True):
        name = _base_name(listed["name"])
        if name in skip or name.startswith(".") or listed["name"].strip("/") == folder.strip("/"):
            continue  # object stores may list a folder as a member of itself
        if listed["type"] == "directory":
            yield from _files_below(filesystem, listed["name"], skip)
        elif (info := _follow_link(filesystem, listed))["type"] == "file":
            yield info


def _follow_link(filesystem: Any, info: dict[str, Any]) -> dict[str, Any]:
    """The file that a local link points to. Links to folders stay as they are: they might go round in circles."""
    if info.get("islink") and filesystem.isfile(info["name"]):
        return dict(filesystem.info(info["name"]))
    return info


def _sources(filesystem: Any, base: str, files: list[dict[str, Any]]) -> list[Source]:
    sources = []
    for info in files:
        name = info["name"][len(base.rstrip("/")) :].lstrip("/")
        modified = next((str(info[key]) for key in MODIFIED if info.get(key)), "")
        sources.append(Source(name, info["name"], filesystem, info["size"], modified, alone=len(files) == 1))
    return sorted(sources, key=lambda source: source.name)


def _near_names(filesystem: Any, path: str) -> list[str]:
    """Names like the first part of the path that is not there."""
    folder, _, name = path.rstrip("/").rpartition("/")
    if "://" in path:  # a web server has no folders to look into
        return []
    while folder and not filesystem.isdir(folder):
        folder, _, name = folder.rpartition("/")
    try:
        names = [_base_name(listed) for listed in filesystem.ls(folder or "/", detail=False)]
    except OSError:
        return []
    return difflib.get_close_matches(name, names)


def _base_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _read_file(source: Source) -> bytes:
    try:
        return bytes(source.filesystem.cat_file(source.path))
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"Cannot read {source.path} ({_reason(error)}): name text that can be read.") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _is_parquet(source: Source) -> bool:
    return source.name.endswith(".parquet")


def _document_names(sources: Iterable[Source]) -> Iterator[str]:
    for source in sources:
        if _is_parquet(source):
            with _open_parquet(source) as parquet:
                yield from (f"{source.name}#{row}" for row in range(parquet.metadata.num_rows))
        else:
            yield source.name


def _read_rows(source: Source, column: str) -> Iterator[tuple[int, bytes]]:
    with _open_parquet(source) as parquet:
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
def _open_parquet(source: Source) -> Iterator[pq.ParquetFile]:
    try:
        with source.filesystem.open(source.path, "rb") as file:
            yield pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.path} is not a Parquet file that can be read ({error}): name another.") from error
