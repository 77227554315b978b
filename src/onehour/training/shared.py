"""Prepared data that several machines read: in the storage under data/, and from there in the cache of each.

Whoever starts a training puts its data there, or finds them there; workers take exactly these and never prepare from
what their own machine has.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem, copy_files

from onehour.data.prepare import (
    INDEX,
    Data,
    Each,
    Index,
    cache_folder,
    data_name,
    in_cache,
    is_there,
    local,
    open_data,
    prepare,
    prepare_in_cache,
    prepare_pieces,
    read_index,
    replacing,
    whole_index,
)
from onehour.data.shards import FileSum
from onehour.errors import InputError
from onehour.recipe import Recipe
from onehour.training.run import Run
from onehour.training.storage import find_storage, open_storage, reason, to_storage

NUM_COPIES = 8  # files that are copied at once


def shared_data(recipe: Recipe, storage: str | None) -> Data:
    """The data of `recipe`: from the cache of this machine, or from the storage, or else prepared here.

    With a storage they are there afterwards.

    Raises:
        InputError: the recipe cannot use its input, or cache or storage cannot be used.
    """
    if storage is None:
        return prepare(recipe)
    data = find_data(data_name(recipe), storage) or prepare(recipe)
    publish(data, storage)
    return data


def data_of(run: Run, recipe: Recipe, storage: str | None) -> Data:
    """The data that a run goes on with: those it has begun with, if they are anywhere, whatever this machine sees."""
    same = "name" in run.index() and run.recipe().describe() == recipe.describe()
    return (same and find_data(**run.data(storage))) or shared_data(recipe, storage)


def take(name: str, digest: str, storage: str) -> Data:
    """The data of this name and digest, for a worker: from the cache of its machine, or from the storage.

    Raises:
        InputError: they are in neither, or cannot be brought here.
    """
    data = find_data(name, storage, digest)
    if data is None:
        raise InputError(
            f"The data {name} are neither in the cache of this node nor whole in {storage}; start the training again, "
            "which puts them there."
        )
    return data


def find_data(name: str, storage: str, digest: str | None = None) -> Data | None:
    """The data of this name (and digest) from the cache of this machine, or brought there from the storage, or None.

    From a shared folder data that are too large for the cache are read where they are.
    """
    with in_cache(name) as folder:
        data = open_data(folder)
        if data and digest in (None, data.digest):
            return data
        try:
            there = in_storage(find_storage(storage), name)
            index = whole_index(there)
            if index is None or digest not in (None, index.digest):
                return None
            if index.num_bytes < shutil.disk_usage(folder.parent).free:
                bring(there, index, folder, storage)
                return open_data(folder)
        except (OSError, ArrowException) as error:
            raise InputError(
                f"The data {name} cannot be brought from {storage} to {folder} ({reason(error)}); make room there, set "
                "XDG_CACHE_HOME to another folder, or see that this node may read the storage."
            ) from error
    if "://" not in storage:
        return Data(Path(storage).absolute() / "data" / name, index)
    raise InputError(
        f"The data {name} have {index.num_bytes / 1e9:,.1f} GB, for which there is no room in {folder.parent}; set "
        "XDG_CACHE_HOME to a folder that has, or let all nodes share a folder and use it as --storage."
    )


def bring(there: FileSystem, index: Index, folder: Path, storage: str) -> None:
    """Copy data from the storage to this machine, and see that they are as they were written."""
    with replacing(folder) as new:
        copy_files("", str(new), there, LocalFileSystem())
        for file in index.files:
            if not is_there(file, local(new)):
                raise InputError(
                    f"{file.name} of the data {index.name} in {storage} has other bytes than were written; make it anew by "
                    "onehour prepare, with the same --storage."
                )


def publish(data: Data, storage: str) -> None:
    """Copy prepared data to the storage, unless they are there and whole; data.json comes last.

    Raises:
        InputError: the storage cannot be written.
    """
    name = data.index.name
    with in_cache(name), told_of_storage(name, storage):  # processes of torchrun all come here
        files = find_storage(storage)
        there = whole_index(in_storage(files, name))
        if there and there.digest == data.digest:
            return

        def copy(file: str) -> None:
            to_storage(data.folder / file, files, f"data/{name}/{file}")

        with ThreadPoolExecutor(NUM_COPIES) as copies:
            list(copies.map(copy, [file.name for file in data.index.files]))
        copy(INDEX)


def prepare_ahead(recipe: Recipe, name: str, storage: str | None, each: Each) -> Iterator[FileSum]:
    """Prepare the data of `recipe`, of this name; yields the files of pieces as they come.

    In the storage, or without one in the cache. Pieces are written straight to the storage, so the data may be larger
    than the disk of any machine.

    Raises:
        InputError: the recipe cannot use its input, or cache or storage cannot be written.
    """
    pieces = recipe.pieces()
    if storage is None:
        with in_cache(name) as folder:
            yield from prepare_in_cache(recipe, folder, each)
    elif pieces:
        files = open_storage(storage)
        with told_of_storage(name, storage):
            yield from prepare_pieces(recipe, name, pieces, in_storage(files, name), each)
    else:
        open_storage(storage)
        publish(prepare(recipe), storage)


def place_of(name: str, storage: str | None) -> tuple[str, Index]:
    """Where data that have been prepared are, in words, and what they are."""
    there = in_storage(find_storage(storage), name) if storage else local(cache_folder() / name)
    index = read_index(there)
    assert index
    return f"{storage}, in data/{name}" if storage else str(cache_folder() / name), index


@contextmanager
def told_of_storage(name: str, storage: str) -> Iterator[None]:
    """Turn an error of the storage into an InputError."""
    try:
        yield
    except (OSError, ArrowException) as error:
        raise InputError(
            f"The data {name} cannot be written to {storage} ({reason(error)}); make room there, or choose another --storage."
        ) from error


def in_storage(storage: FileSystem, name: str) -> SubTreeFileSystem:
    """The folder of the data of this name."""
    return SubTreeFileSystem(f"data/{name}", storage)
