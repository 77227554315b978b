"""The pictures of the course, by module: `pictures.graph.draw(loss)`. Each module draws one kind of thing."""

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return importlib.import_module(f"onehour.course.pictures.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module 'onehour.course.pictures' has no attribute {name!r}") from error
