"""Where text comes from: files, folders, globs and Parquet, on this machine or behind any URI.

Without a choice it is the source of the Python standard library that runs this program: real text of some 12 MB that
every machine has.
"""

import difflib
import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.fs

from onehour.errors import InputError

# Tests, other people's packages and generated files: not what one would show somebody as the library.
NOT_THE_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "ensurepip", "_vendor", "turtledemo"}
    | {"__pycache__"}
)
# What the file systems call the time of the last change, or else the version.
MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "created", "ETag")


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
        raise InputError(f"Cannot read {where} ({reason(error)}): name text that can be read.") from error
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


def reason(error: Exception) -> str:
    """What went wrong with a file, in a few words."""
    return str(getattr(error, "strerror", None) or error)
