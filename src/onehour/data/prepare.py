"""Data are prepared once, and checked: the same files for every run that wants the same input.

A folder of data has held_out.arrow, train.arrow (or train-00000.arrow and so on: data/shards.py), what else the recipe
wrote, and data.json, which comes last: facts, and size and SHA-256 of each file.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock
from pyarrow.fs import FileSystem, FileType, LocalFileSystem, SubTreeFileSystem, copy_files

from onehour.data.arrow import Rows
from onehour.data.shards import FileSum, Shards, sum_of, with_rows
from onehour.errors import InputError
from onehour.recipe import Recipe, digest

FORMAT = "2"  # part of every key: count up when prepared data of an older onehour must not be reused
INDEX = "data.json"

Each = Callable[[Callable[[int], FileSum], range], Iterable[FileSum]]
"""Calls a function with each number of a range, in any order and any processes: `map` in this one."""


@dataclass(frozen=True)
class Index:
    """What data.json says."""

    name: str
    facts: dict[str, Any]
    digest: str
    """SHA-256 of the Arrow files: equal data have an equal digest on every machine."""
    files: list[FileSum]

    @property
    def train(self) -> list[FileSum]:
        """The files of the training samples, in order."""
        return [file for file in self.files if is_train(file)]

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files)


@dataclass(frozen=True)
class Data:
    """Prepared data: a folder with Arrow files and what else the recipe wrote."""

    folder: Path
    index: Index

    @property
    def facts(self) -> dict[str, Any]:
        """What the recipe's prepare returned."""
        return self.index.facts

    @property
    def digest(self) -> str:
        """SHA-256 of the Arrow files."""
        return self.index.digest

    @cached_property
    def train(self) -> Rows:
        """The training samples."""
        return Rows(*(self.folder / file.name for file in self.index.train))

    @cached_property
    def held_out(self) -> Rows:
        """The samples that are never trained."""
        return Rows(self.folder / "held_out.arrow")


def cache_folder() -> Path:
    """Where prepared data live: $XDG_CACHE_HOME/onehour, or ~/.cache/onehour."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onehour"


def data_name(recipe: Recipe) -> str:
    """The name of the data of `recipe`, which changes with its options and its input as this machine sees it."""
    return f"{recipe.name()}-{digest(FORMAT + str(recipe.source) + recipe.fingerprint())}"


def prepare(recipe: Recipe) -> Data:
    """The data of `recipe`, prepared now unless they are there already and whole.

    Several processes may ask at once: one prepares, the others wait for it. A folder appears under its final name
    only when it is complete.

    Raises:
        InputError: the recipe cannot use its input, or the cache cannot be written.
    """
    with in_cache(data_name(recipe)) as folder:
        data = open_data(folder)
        if data is None:
            for _ in prepare_in_cache(recipe, folder, map):
                pass
            data = open_data(folder)
        assert data
        return data


@contextlib.contextmanager
def in_cache(name: str) -> Iterator[Path]:
    """The folder for the data of this name on this machine, for one process at a time.

    Raises:
        InputError: in place of an error of the disk.
    """
    folder = cache_folder() / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{name}.lock"):
            yield folder
    except OSError as error:
        raise InputError(
            f"The data {name} cannot be prepared in {folder}: {error.strerror or error}; "
            "free some space there, or set XDG_CACHE_HOME to another folder."
        ) from error


def prepare_in_cache(recipe: Recipe, folder: Path, each: Each) -> Iterator[FileSum]:
    """Prepare the data in `folder`, unless they are whole there; yields the files of the pieces as they come.

    Files that a process made before it was killed are kept, in a folder beside; a recipe without pieces begins anew.
    """
    if whole_index(local(folder)):
        return
    pieces = recipe.pieces()
    if pieces:
        new = folder.parent / f".{folder.name}"
        yield from prepare_pieces(recipe, folder.name, pieces, local(new), each)
        put_in_place(new, folder)
    else:
        with replacing(folder) as new:
            facts = recipe.prepare(new)
            check_prepared(recipe, new, facts, ["train.arrow", "held_out.arrow"])
            write_index(local(new), folder.name, facts, sums_in(new))


def prepare_pieces(
    recipe: Recipe, name: str, pieces: Sequence[Any], target: SubTreeFileSystem, each: Each
) -> Iterator[FileSum]:
    """Prepare the data of a recipe with pieces in the folder `target`; yields their files as they come.

    Files that are there and whole are kept. Where data.json is there, too, nothing else is done but to make those anew
    that are damaged.

    Raises:
        InputError: the recipe cannot use its input, or not everybody writes to the same folder.
    """
    before = read_index(target)
    known = {file.name: file for file in before.files} if before else {}
    files = [file for file in known.values() if not is_train(file)]
    facts, same = before.facts if before else {}, True
    if not before or not all(is_there(file, target) for file in files):
        facts, files, same = prepare_beside(recipe, target)
    make = Shards(recipe, pieces, target, [f.name for f in files if f.num_rows is None], known if same else None)
    for file in each(make, range(len(pieces))):
        yield file
        files += [file] if file.num_rows else []
    check_pieces(recipe, target, files)
    write_index(target, name, facts, files)


def prepare_beside(recipe: Recipe, target: SubTreeFileSystem) -> tuple[dict[str, Any], list[FileSum], bool]:
    """Put what the recipe's prepare writes into the target; returns its facts and its files.

    And whether what is no samples was there already and equal: if not, files of pieces there are of another tokenizer.
    """
    with tempfile.TemporaryDirectory() as folder:
        facts = recipe.prepare(Path(folder))
        check_prepared(recipe, Path(folder), facts, ["held_out.arrow"])
        files = sums_in(Path(folder))
        same = all(is_there(file, target) for file in files if file.num_rows is None)
        target.base_fs.create_dir(target.base_path)
        for file in files:
            copy_files(f"{folder}/{file.name}", file.name, LocalFileSystem(), target)
    return facts, files, same


def check_prepared(recipe: Recipe, folder: Path, facts: object, wanted: Sequence[str]) -> None:
    """Raise InputError unless the recipe's prepare has done what `Recipe.prepare` says."""
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise InputError(
            f"prepare of the recipe {recipe.name()} must write {' and '.join(missing)}, with samples in it."
        )
    if not isinstance(facts, dict):
        raise InputError(
            f"prepare of the recipe {recipe.name()} returned {facts!r}; it must return a dict of facts, or {{}}."
        )


def check_pieces(recipe: Recipe, target: FileSystem, files: list[FileSum]) -> None:
    """Raise InputError unless there are samples to train on, and this machine sees what the workers have written."""
    if not any(is_train(file) for file in files):
        raise InputError(f"The data of {recipe.name()} have not one sample to train on; give more input.")
    for file in files:
        if target.get_file_info(file.name).size != file.num_bytes:
            raise InputError(
                f"{file.name} was written by a worker and is not seen here; choose a --storage that all nodes share."
            )


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` if the block ends well, and vanishes if it does not."""
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield new
        put_in_place(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def put_in_place(new: Path, folder: Path) -> None:
    """Give the folder `new` the name `folder`, in place of what has it."""
    new.chmod(0o755)  # mkdtemp makes it for one user only
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def local(folder: Path) -> SubTreeFileSystem:
    """A folder of this machine as pyarrow's file system."""
    return SubTreeFileSystem(str(folder), LocalFileSystem())


def is_train(file: FileSum) -> bool:
    """Whether a file holds samples to train on."""
    return re.fullmatch(r"train(-\d+)?\.arrow", file.name) is not None


def is_there(file: FileSum, folder: FileSystem) -> bool:
    """Whether the folder has this file, with these bytes."""
    there = sum_of(folder, file.name)
    return there is not None and there.sha256 == file.sha256


def sums_in(folder: Path) -> list[FileSum]:
    """The files in a folder, by name."""
    found = (sum_of(local(folder), path.name) for path in sorted(folder.iterdir()))
    return [with_rows(file, local(folder)) or file for file in found if file]


def write_index(folder: FileSystem, name: str, facts: dict[str, Any], files: Iterable[FileSum]) -> None:
    """Write data.json."""
    files = sorted(files, key=lambda file: file.name)
    arrow = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in files if file.name.endswith(".arrow")))
    index = Index(name, facts, arrow.hexdigest(), files)
    with folder.open_output_stream(INDEX) as there:
        there.write(json.dumps(asdict(index), indent=2).encode())


def read_index(folder: FileSystem) -> Index | None:
    """What data.json says; None if it is not there, or not to its end."""
    if folder.get_file_info(INDEX).type != FileType.File:
        return None
    with folder.open_input_stream(INDEX) as there, contextlib.suppress(json.JSONDecodeError):
        content = json.loads(there.read())
        return Index(**content | {"files": [FileSum(**file) for file in content["files"]]})
    return None


def facts_in(folder: Path) -> dict[str, Any]:
    """What the recipe's prepare returned, in a folder of data or in the folder data of a run."""
    index = read_index(local(folder))
    assert index
    return index.facts


def whole_index(folder: FileSystem) -> Index | None:
    """What data.json says, if every file that it names is there at its full length."""
    index = read_index(folder)
    if index is None:
        return None
    found = folder.get_file_info([file.name for file in index.files])
    sizes = [file.num_bytes for file in index.files]
    return index if [info.size for info in found] == sizes else None


def open_data(folder: Path) -> Data | None:
    """The prepared data in `folder`, if they are whole."""
    index = whole_index(local(folder))
    return Data(folder, index) if index else None
