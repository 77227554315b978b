"""What travels to a cluster with a job: the current folder, and onehour where that folder is no clone of it."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from ray._private import ray_constants
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

from onehour.errors import InputError

LIMIT = 100_000_000  # bytes; Ray's own is 512 MiB
PACKAGE = Path(__file__).parents[1]


def runtime_env(folder: Path, file: Path | None) -> dict[str, Any]:
    """The runtime environment of a job that is submitted from `folder`; `file` names one that adds to it.

    Raises:
        InputError: `file` is not one.
    """
    environment = read(find_runtime_env())
    if file:
        more = read(file)
        environment |= more | {"env_vars": environment["env_vars"] | more.get("env_vars", {})}
    environment["working_dir"] = str(folder)
    if not (folder / "src" / "onehour").is_dir():
        environment.setdefault("py_modules", []).append(str(PACKAGE))
    return environment


def find_runtime_env() -> Path:
    """The file of the runtime environment: in the installed package, or in the clone that the package lies in."""
    inside = PACKAGE / "cluster" / "runtime-env.yaml"
    return inside if inside.exists() else PACKAGE.parents[1] / "clusters" / "runtime-env.yaml"


def read(file: Path) -> dict[str, Any]:
    """A runtime environment from YAML."""
    try:
        environment = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"The runtime environment {file} cannot be read: {error}") from error
    if not isinstance(environment, dict):
        raise InputError(
            f"The runtime environment {file} must be a mapping in YAML, such as clusters/runtime-env.yaml."
        )
    return environment


def measure(environment: dict[str, Any]) -> tuple[int, int]:
    """How many files of the current folder travel, and their bytes, as Ray will choose them.

    Raises:
        InputError: they are more than LIMIT; says what is large.
    """
    folder, excludes = Path(environment["working_dir"]), ray_constants.get_runtime_env_default_excludes()
    files, sizes = 0, Counter[str]()

    def add(path: Path) -> None:
        nonlocal files
        if path.is_file():
            files += 1
            sizes[path.relative_to(folder).parts[0]] += path.stat().st_size
            if sizes.total() > LIMIT:  # at once: this may be a home, or a disk
                raise InputError(too_large(folder, sizes))

    silent = logging.Logger("silent", logging.CRITICAL)
    _dir_travel(folder, [_get_excludes(folder, excludes + environment["excludes"])], add, True, silent)
    return files, sizes.total()


def too_large(folder: Path, sizes: Counter[str]) -> str:
    """A sentence about a folder that is too large to travel; `sizes` are the bytes of what was seen in it."""
    large = " and ".join(f"{name} ({size / 1e6:,.0f} MB)" for name, size in sizes.most_common(3) if size > LIMIT / 10)
    return (
        f"More than {LIMIT / 1e6:.0f} MB of {folder} would travel with the job, much of it in {large}; name what the job "
        "does not need in a file .rayignore there, or submit from the folder of your project."
    )
