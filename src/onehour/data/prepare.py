"""Data are prepared once for each machine, and checked: the same files for every run that wants the same input."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from onehour.data.arrow import Rows
from onehour.errors import InputError
from onehour.recipe import Recipe, digest

FORMAT = "1"  # part of every key: count up when prepared data of an older onehour must not be reused


@dataclass(frozen=True)
class Data:
    """Prepared data: a folder with train.arrow, held_out.arrow and what else the recipe wrote."""

    folder: Path
    facts: dict[str, Any]
    digest: str
    """SHA-256 of the Arrow files: equal data have an equal digest on every machine."""

    @cached_property
    def train(self) -> Rows:
        """The training samples."""
        return Rows(self.folder / "train.arrow")

    @cached_property
    def held_out(self) -> Rows:
        """The samples that are never trained."""
        return Rows(self.folder / "held_out.arrow")


def cache_folder() -> Path:
    """Where prepared data live: $XDG_CACHE_HOME/onehour, or ~/.cache/onehour."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onehour"


def prepare(recipe: Recipe) -> Data:
    """The data of `recipe`, prepared now unless they are there already and whole.

    Several processes may ask at once: one prepares, the others wait for it. A folder appears under its final name
    only when it is complete.

    Raises:
        InputError: the recipe cannot use its input, or the cache cannot be written.
    """
    name = f"{recipe.name()}-{digest(FORMAT + str(recipe.source) + recipe.fingerprint())}"
    folder = cache_folder() / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{name}.lock"):
            if not is_whole(folder):
                with replacing(folder) as new:
                    facts = recipe.prepare(new)
                    check_prepared(recipe, new, facts)
                    write_index(new, facts)
            return open_data(folder)
    except OSError as error:
        raise InputError(
            f"The data of {recipe.name()} cannot be prepared in {folder}: {error.strerror or error}; "
            "free some space there, or set XDG_CACHE_HOME to another folder."
        ) from error


def check_prepared(recipe: Recipe, folder: Path, facts: object) -> None:
    """Raise InputError unless the recipe's prepare has done what `Recipe.prepare` says."""
    missing = [name for name in ("train.arrow", "held_out.arrow") if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"prepare of the recipe {recipe.name()} must write {' and '.join(missing)}, with samples in it."
        )
    if not isinstance(facts, dict):
        raise InputError(
            f"prepare of the recipe {recipe.name()} returned {facts!r}; it must return a dict of facts, or {{}}."
        )


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` if the block ends well, and vanishes if it does not."""
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield new
        new.chmod(0o755)  # mkdtemp makes it for one user only
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_index(folder: Path, facts: dict[str, Any]) -> None:
    """Write data.json: the facts, the size of each file and the digest of the Arrow files."""
    files = sorted(path for path in folder.iterdir())
    arrow = hashlib.sha256()
    for path in files:
        if path.suffix == ".arrow":
            with path.open("rb") as file:
                arrow.update(hashlib.file_digest(file, "sha256").digest())
    index = {"facts": facts, "digest": arrow.hexdigest(), "sizes": {path.name: path.stat().st_size for path in files}}
    (folder / "data.json").write_text(json.dumps(index, indent=2))


def is_whole(folder: Path) -> bool:
    """Whether every file that data.json names is there at its full length."""
    index = folder / "data.json"
    if not index.is_file():
        return False
    sizes = json.loads(index.read_text())["sizes"]
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def open_data(folder: Path) -> Data:
    """The prepared data in `folder`."""
    index = json.loads((folder / "data.json").read_text())
    return Data(folder, index["facts"], index["digest"])
