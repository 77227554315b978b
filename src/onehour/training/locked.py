"""The right to write in a folder, which one process has at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from onehour.errors import InputError


@contextmanager
def locked(folder: Path, in_use: str) -> Iterator[None]:
    """For the time of the block, the right to write in `folder`. It ends with the process, however that ends.

    Raises:
        InputError: another process has it; the message is `in_use`.
    """
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(in_use) from error
    try:
        yield
    finally:
        lock.release()
