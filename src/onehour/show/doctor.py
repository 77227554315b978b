"""What this machine has, and what would not work on it."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from onehour.data.text import standard_library
from onehour.errors import InputError

GB = 1e9
EXTRAS = {"sklearn": ("digits", "the recipe digits"), "tokenizers": ("bpe", "gpt --vocab-size")}


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    name: str
    text: str
    trouble: bool = False


def examine(runs: Path) -> Iterator[Finding]:
    """Examine this machine; a finding with `trouble` keeps onehour from working."""
    yield Finding("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    yield packages()
    yield from devices()
    yield memory()
    yield storage(runs.absolute())
    yield ray_on_this_machine()
    yield text()
    for module, (extra, what) in EXTRAS.items():
        if find_spec(module) is None:
            yield Finding("extra", f"{what} needs: pip install 'onehour[{extra}]'")
