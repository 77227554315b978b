"""The options of a command that trains a recipe: those of the recipe, those of the training, and others."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from onehour.cli import parse
from onehour.config import TrainConfig
from onehour.recipe import Recipe


def recipe_options(
    recipe: Recipe,
    defaults: Callable[[Recipe], TrainConfig],
    arguments: Sequence[str],
    command: str,
    **others: tuple[Any, Any],
) -> Any:
    """Arguments as an object with recipe, train and the `others`, each of which is a type and a default.

    `defaults` tells a recipe's TrainConfig. The recipe's own options may change it: then they are read once more.
    """
    config = defaults(recipe)
    options = parse_once(recipe, config, arguments, command, others)
    if defaults(options.recipe) != config:
        options = parse_once(options.recipe, defaults(options.recipe), arguments, command, others)
    return options


def parse_once(
    recipe: Recipe, config: TrainConfig, arguments: Sequence[str], command: str, others: dict[str, tuple[Any, Any]]
) -> Any:
    """Arguments as an object, starting from this recipe and this configuration."""
    all_of_them = {"recipe": (type(recipe), recipe), "train": (TrainConfig, config)} | others
    fields = [(name, kind, dataclasses.field(default=default)) for name, (kind, default) in all_of_them.items()]
    return parse(dataclasses.make_dataclass("Options", fields, frozen=True), arguments, command)
