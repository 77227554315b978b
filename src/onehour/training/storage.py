"""A copy of a run on another disk, on S3 or on GCS, made while the run is trained.

The copy has the same files as the run's folder. A checkpoint there is complete when its SHA256SUMS, which is copied
last, is there. Whatever pyarrow opens can be a storage; credentials come from the environment, and so does the address of
an S3 that is not Amazon's (AWS_ENDPOINT_URL).
"""

import json
import shutil
import tempfile
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, SubTreeFileSystem, copy_files

from onehour.errors import InputError
from onehour.training.run import Run, lowest_loss
from onehour.training.sums import SUMS, damage

SMALL = ("config.json", "data", "metrics.jsonl", "warnings.jsonl", "audit.jsonl", "mlflow.json", "tensorboard")


def open_storage(uri: str) -> FileSystem:
    """The storage at a path or URI such as s3://bucket/runs, which may be written: a file is written and removed to see.

    Raises:
        InputError: it cannot be opened or written.
    """
    try:
        storage = find_storage(uri)
        storage.base_fs.create_dir(storage.base_path)
        name = f".onehour-{uuid.uuid4().hex[:8]}"  # several machines may try at once
        with storage.open_output_stream(name) as file:
            file.write(b"onehour")
        storage.delete_file(name)
    except (OSError, ArrowException) as error:
        raise InputError(f"Runs cannot be copied to {uri} ({reason(error)}); choose another --storage.") from error
    return storage


def find_storage(uri: str) -> SubTreeFileSystem:
    """The storage at a path or URI, to read. Raises what pyarrow raises."""
    files, path = FileSystem.from_uri(uri if "://" in uri else str(Path(uri).absolute()))
    return SubTreeFileSystem(path, files)


def names_in(files: FileSystem, marks: Collection[str] = ("config.json",)) -> list[str]:
    """The names of the runs in a file system: its folders that hold a config.json, or another one of `marks`."""
    found = files.get_file_info(FileSelector("", allow_not_found=True))
    folders = [info.base_name for info in found if info.type == FileType.Directory]
    infos = files.get_file_info([f"{name}/{mark}" for name in folders for mark in marks])
    return list(dict.fromkeys(info.path.split("/")[-2] for info in infos if info.type == FileType.File))


def reason(error: BaseException) -> str:
    """The first sentence of pyarrow's often long message."""
    return str(error).partition(". Detail:")[0].strip().splitlines()[0]


def remove_copies(uri: str, names: Sequence[str]) -> None:
    """Remove the copies of runs from the storage.

    Raises:
        InputError: one cannot be removed.
    """
    try:
        storage = find_storage(uri)
        for name in names:
            storage.delete_dir(name)
    except (OSError, ArrowException) as error:
        raise InputError(f"The runs could not be removed from {uri} ({reason(error)}).") from error


def upload(run: Run, checkpoint: Path, uri: str, num_checkpoints: int | None, anew: bool = True) -> str | None:
    """Copy a checkpoint and the run's small files to the storage; returns what went wrong, or None.

    The newest `num_checkpoints` stay there, and the one of the lowest held-out loss. What an earlier upload left half
    done is removed, too. A checkpoint of the same step that is there is replaced, unless not `anew`.
    """
    try:
        storage = open_storage(uri)
        if anew or checkpoint.name not in checkpoints_in(storage, run.name):
            copy_checkpoint(storage, run, checkpoint)
            for old in superfluous(storage, run.name, num_checkpoints):
                storage.delete_dir(f"{run.name}/checkpoints/{old}")
        upload_small(storage, run)
    except (OSError, ArrowException, InputError) as error:
        return f"The checkpoint {checkpoint.name} could not be copied to {uri} ({reason(error)})."
    return None


def copy_checkpoint(storage: FileSystem, run: Run, checkpoint: Path) -> None:
    """Copy a checkpoint, its sums last; before that, remove what is there of the same step, and what is half done."""
    same = f"{run.name}/checkpoints/{checkpoint.name}"
    there = checkpoints_in(storage, run.name)
    for old in [*half_done(storage, run.name), *([same] if checkpoint.name in there else [])]:
        storage.delete_dir(old)
    files = (path for path in checkpoint.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == SUMS):
        to_storage(path, storage, f"{run.name}/{path.relative_to(run.folder)}")


def upload_small(storage: FileSystem, run: Run) -> None:
    """Copy the run's small files, and its data unless they are there: these never change, and may hold weights."""
    for name in SMALL:
        if (run.folder / name).exists() and not (name == "data" and has_all(storage, run.folder, run.name, name)):
            to_storage(run.folder / name, storage, f"{run.name}/{name}")


def has_all(storage: FileSystem, folder: Path, there: str, name: str) -> bool:
    """Whether `there` in the storage has every file below `folder`/`name` at its full length."""
    files = [path for path in (folder / name).rglob("*") if path.is_file()]
    infos = storage.get_file_info([f"{there}/{path.relative_to(folder)}" for path in files])
    return [info.size for info in infos] == [path.stat().st_size for path in files]


def to_storage(path: Path, storage: FileSystem, name: str) -> None:
    """Copy a file or folder of this machine to `name` in the storage."""
    storage.create_dir(name if path.is_dir() else name.rpartition("/")[0])
    copy_files(str(path), name, source_filesystem=LocalFileSystem(), destination_filesystem=storage)


def checkpoints_in(storage: FileSystem, name: str) -> list[str]:
    """The names of the complete checkpoints of a run in the storage, oldest first."""
    found = storage.get_file_info(FileSelector(f"{name}/checkpoints", allow_not_found=True, recursive=True))
    return sorted(info.path.split("/")[-2] for info in found if info.base_name == SUMS)


def copied(checkpoint: Path, run: Run, uri: str) -> tuple[int, int]:
    """How many bytes of a checkpoint of the run are in the storage, and how many here. Raises what pyarrow raises."""
    there = find_storage(uri).get_file_info(
        FileSelector(f"{run.name}/checkpoints/{checkpoint.name}", allow_not_found=True, recursive=True)
    )
    here = (path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    return sum(info.size or 0 for info in there), sum(here)


def superfluous(storage: FileSystem, name: str, num_checkpoints: int | None) -> list[str]:
    """The names of the checkpoints of a run that need not stay: all but the newest, and the one of the lowest loss."""
    there = checkpoints_in(storage, name)
    if num_checkpoints is None or len(there) <= num_checkpoints:
        return []
    losses = dict[str, float | None]()
    for step in there:
        with suppress(ValueError), storage.open_input_stream(f"{name}/checkpoints/{step}/checkpoint.json") as file:
            losses[step] = json.loads(file.read()).get("held_out_loss")
    return [step for step in there[:-num_checkpoints] if step != lowest_loss(losses)]


def half_done(storage: FileSystem, name: str) -> list[str]:
    """The folders of checkpoints whose copying did not come to its end."""
    complete = checkpoints_in(storage, name)
    found = storage.get_file_info(FileSelector(f"{name}/checkpoints", allow_not_found=True))
    return [info.path for info in found if info.type == FileType.Directory and info.base_name not in complete]


def fetch(uri: str, name: str, runs: Path) -> list[str]:
    """Bring a run from the storage to this machine, if it is newer there, with its newest good checkpoint.

    Returns a sentence about each checkpoint there that is damaged.

    Raises:
        InputError: the storage cannot be read, or the folder `runs` not written.
    """
    storage, run = open_storage(uri), Run(runs.absolute() / name)
    try:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(run.folder.parent / f".{run.name}.lock"):  # processes of torchrun all come here
            return fetch_newer(storage, run, uri)
    except (OSError, ArrowException) as error:
        raise InputError(
            f"The run {run.name} cannot be brought from {uri} to {run.folder.parent} ({reason(error)}); make room or "
            "choose another folder by --runs, or leave --storage away to go on from what is here."
        ) from error


def fetch_newer(storage: FileSystem, run: Run, uri: str, small: bool = True) -> list[str]:
    """Bring the newest good checkpoint that is newer than those here, and with it the run's `small` files."""
    warnings: list[str] = []
    here, _ = run.newest_checkpoint()
    for step in reversed(checkpoints_in(storage, run.name)):
        if here and step <= here.name:
            break
        found = fetch_checkpoint(storage, run, step)
        if found is None:
            if small:
                fetch_small(storage, run)
            break
        warnings.append(f"The checkpoint {step} in {uri} is damaged: {found}; the one before it is tried.")
    return warnings


def fetch_checkpoint(storage: FileSystem, run: Run, step: str) -> str | None:
    """Bring one checkpoint here; returns what is wrong with it, or None."""
    folder = run.folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{step}-", dir=folder))
    copy_files(f"{run.name}/checkpoints/{step}", str(new), storage, LocalFileSystem())
    found = damage(new)
    if found is None:
        shutil.rmtree(folder / step, ignore_errors=True)
        new.chmod(0o755)
        new.rename(folder / step)
    shutil.rmtree(new, ignore_errors=True)
    return found


def fetch_small(storage: FileSystem, run: Run) -> None:
    """Bring the run's small files here."""
    for name in SMALL:
        info = storage.get_file_info(f"{run.name}/{name}")
        if info.type == FileType.Directory:
            (run.folder / name).mkdir(exist_ok=True)
        if info.type != FileType.NotFound:
            copy_files(f"{run.name}/{name}", str(run.folder / name), storage, LocalFileSystem())


def level(run: Run, uri: str) -> list[str]:
    """Give the run's folder here and its copy in the storage the same newest checkpoint, and the storage the small files.

    Before and after an attempt of workers that do not see this folder. Returns a sentence about each damaged checkpoint.

    Raises:
        InputError: the storage cannot be read or written.
    """
    try:
        storage = open_storage(uri)
        warnings = fetch_newer(storage, run, uri, small=False)
        newest, _ = run.newest_checkpoint()
        if newest and newest.name not in checkpoints_in(storage, run.name):
            copy_checkpoint(storage, run, newest)
        upload_small(storage, run)
    except (OSError, ArrowException) as error:
        raise InputError(f"The run {run.name} and its copy in {uri} cannot be made equal ({reason(error)}).") from error
    return warnings


def settle(run: Run, uri: str, start: Path | None) -> None:
    """Make the run's folder on a node that does not share it as if the run had always been here, up to `start`.

    Checkpoints that are newer, or another one of the same step, are of an attempt that others have overtaken.

    Raises:
        InputError: the storage cannot be read, the folder not be written, or the checkpoint is damaged in the storage.
    """
    try:
        storage = find_storage(uri)
        run.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(run.folder.parent / f".{run.name}.lock"):  # the workers of a node all come here
            for old in run.checkpoints():
                if start is None or old.name > start.name or (old.name == start.name and differs(storage, run, old)):
                    shutil.rmtree(old)
            if start and not start.exists() and (trouble := fetch_checkpoint(storage, run, start.name)):
                raise InputError(f"The checkpoint {start.name} in {uri} is damaged: {trouble}.")
            fetch_small(storage, run)
    except (OSError, ArrowException) as error:
        raise InputError(
            f"The run {run.name} cannot be brought from {uri} to {run.folder.parent} ({reason(error)})."
        ) from error


def differs(storage: FileSystem, run: Run, checkpoint: Path) -> bool:
    """Whether a checkpoint here is damaged, or another one than that of the same step in the storage."""
    with storage.open_input_stream(f"{run.name}/checkpoints/{checkpoint.name}/{SUMS}") as file:
        theirs = file.read()
    return damage(checkpoint) is not None or (checkpoint / SUMS).read_bytes() != theirs
