"""What the notebooks import: the check of each exercise, the pictures, and a view of the real source.

The names are imported when they are first used, so that a chapter on tensors does not wait for matplotlib.
"""

import importlib
from typing import Any

HOME = {"check": "check", "pictures": "pictures", "show_source": "source"}
__all__ = list(HOME)


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module 'onehour.course' has no attribute {name!r}")
    module = importlib.import_module(f"onehour.course.{HOME[name]}")
    return getattr(module, name, module)


def __dir__() -> list[str]:
    return __all__
