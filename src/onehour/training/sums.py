"""Sums of files, so that a damaged one is recognized."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

SUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sum_lines(paths: Iterable[Path], folder: Path) -> str:
    """Lines of a SHA256SUMS in `folder` for these files below it."""
    return "".join(f"{sha256(path)}  {path.relative_to(folder)}\n" for path in sorted(paths))


def damage(folder: Path) -> str | None:
    """What is wrong with the files in `folder`, in a few words; None if every file has its sum."""
    sums = folder / SUMS
    if not sums.is_file():
        return f"{SUMS} is missing"
    for line in sums.read_text(errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        if not (folder / name).is_file():
            return f"{name or f'a name in {SUMS}'} is missing"
        if sha256(folder / name) != expected:
            return f"{name} has other bytes than were written"
    return None
