"""The checks of the exercises, by name: `check.tensors_2(answer)`. Each module here has those of one chapter."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    chapter, _, number = name.rpartition("_")
    if not (chapter and number.isdigit()):
        raise AttributeError(f"module 'onehour.course.check' has no attribute {name!r}")
    return getattr(importlib.import_module(f"onehour.course.check.{chapter}"), name)
