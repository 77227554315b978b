"""What a search chooses from, as text: `log(1e-4, 1e-1)`, `uniform(0, 0.3)`, `int(16, 256)`, `choice(adamw, sgd)`.

A recipe's `space`, the command line and a file all say it this way. Nothing here imports torch or ray.
"""

import dataclasses
import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from onehour.config import TrainConfig
from onehour.errors import InputError
from onehour.recipe import Recipe

FORMS = "log(LOW, HIGH), uniform(LOW, HIGH), int(LOW, HIGH) or int(LOW, HIGH, STEP), choice(A, B, ...), or a value"


@dataclass(frozen=True)
class Domain:
    """The values that a hyperparameter may take: of choice all of them, of the others the lowest and the highest."""

    kind: Literal["log", "uniform", "int", "choice"]
    values: tuple[Any, ...]
    step: int = 1
    """Of int: from one value to the next."""

    def samples(self) -> tuple[Any, ...]:
        """Values to try whether they can be: all choices, both ends, and of int the second one, too."""
        return (*self.values, self.values[0] + self.step) if self.kind == "int" else self.values

    def __str__(self) -> str:
        step = (self.step,) if self.step != 1 else ()
        return f"{self.kind}({', '.join(map(str, self.values + step))})"


Space = dict[str, Domain]


def read_space(recipe: Recipe, config: TrainConfig, texts: Mapping[str, str]) -> tuple[Recipe, TrainConfig, Space]:
    """The space that the texts say, by the names of fields of the recipe or of the configuration.

    A text that is a value alone fixes it: it is in the returned recipe or configuration, and not in the space.

    Raises:
        InputError: a name or a text cannot be understood, a value cannot be, or there is nothing to choose.
    """
    domains = {name: read_domain(name, text.strip(), kinds_of(recipe, config, name)) for name, text in texts.items()}
    for name, domain in domains.items():
        for value in domain.samples():
            with_choice(recipe, config, {name: value})  # says what cannot be
    fixed = {name: domain.values[0] for name, domain in domains.items() if len(domain.values) == 1}
    space = {name: domain for name, domain in domains.items() if name not in fixed}
    if not space:
        raise InputError("There is nothing to choose: the space has no range; give one by --space NAME=log(LOW, HIGH).")
    return *with_choice(recipe, config, fixed), space


def read_domain(name: str, text: str, kinds: tuple[Any, ...]) -> Domain:
    """What one text says about a field that takes values of these kinds."""
    form = re.fullmatch(r"(\w+)\s*\((.*)\)", text, re.DOTALL)
    if form is None:
        return Domain("choice", (value_of(name, text, kinds),))
    kind, cells = form[1], [cell.strip() for cell in form[2].split(",") if cell.strip()]
    if kind == "choice" and cells:
        return Domain("choice", tuple(dict.fromkeys(value_of(name, cell, kinds) for cell in cells)))
    if kind not in ("log", "uniform", "int") or not 2 <= len(cells) <= (3 if kind == "int" else 2):
        raise InputError(f"{name}={text} is no space; write {FORMS}.")
    if (float if kind != "int" else int) not in kinds:
        raise InputError(f"{name}={text} cannot be: {name} takes {in_words(kinds)}; write {hint_for(kinds)}.")
    low, high, *step = (value_of(name, cell, (float if kind != "int" else int,)) for cell in cells)
    if not low < high or (kind == "log" and low <= 0):
        above_zero = ", both above 0" if kind == "log" else ""
        raise InputError(f"{name}={text} has no values; write {kind}(LOW, HIGH) with LOW less than HIGH{above_zero}.")
    if step and (step[0] < 1 or low % step[0] or high % step[0]):
        raise InputError(
            f"{name}={text} cannot be stepped; write int(LOW, HIGH, STEP), LOW and HIGH multiples of STEP."
        )
    return Domain(kind, (low, high), *step)  # type: ignore[arg-type]


def kinds_of(recipe: Recipe, config: TrainConfig, name: str) -> tuple[Any, ...]:
    """The kinds of values that a field of the recipe or of the configuration takes, such as (int, NoneType)."""
    known = names_of(recipe) | names_of(config)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known))}."
        raise InputError(f"There is no hyperparameter {name!r}; {hint}")
    hint = get_type_hints(type(recipe if name in names_of(recipe) else config))[name]
    return (hint,) if get_origin(hint) in (None, Literal) else get_args(hint)


def value_of(name: str, text: str, kinds: tuple[Any, ...]) -> Any:
    """A text as a value of the first of these kinds that it can be."""
    for kind in sorted(kinds, key=lambda kind: kind is str):  # a text may be anything
        if kind in (int, float):
            try:
                value = kind(text)
            except ValueError:
                continue
            if math.isfinite(value):
                return value
        elif kind in (bool, NoneType) and text in (("True", "False") if kind is bool else ("None",)):
            return {"True": True, "False": False, "None": None}[text]
        elif kind is str or text in get_args(kind):
            return text
    raise InputError(f"{name} cannot be {text!r}: it takes {in_words(kinds)}.")


def in_words(kinds: tuple[Any, ...]) -> str:
    """What a field takes, such as: a whole number or None."""
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text", NoneType: "None"}
    return " or ".join(words.get(kind) or " or ".join(map(str, get_args(kind))) for kind in kinds)


def hint_for(kinds: tuple[Any, ...]) -> str:
    """What to write for a field of these kinds."""
    if float in kinds:
        return "uniform(LOW, HIGH)"
    return "int(LOW, HIGH) or choice(A, B, ...)" if int in kinds else "choice(A, B, ...)"


def from_options(options: Iterable[str]) -> dict[str, str]:
    """The texts of `--space NAME=TEXT`, by name; `learning-rate` is learning_rate, as among the other options."""
    texts = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not (equals and name.strip() and text.strip()):
            raise InputError(f"--space {option} says no space; write NAME=TEXT, where TEXT is {FORMS}.")
        texts[name.strip().replace("-", "_")] = text
    return texts


def from_file(path: Path) -> dict[str, str]:
    """The texts of a JSON or TOML file, by name; a list is a choice.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    try:
        content = path.read_text(encoding="utf-8")
        found = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
        if not isinstance(found, dict):
            raise ValueError("it has no names")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"--space-file {path} cannot be read ({reason}); give a JSON or TOML file of names."
        ) from error
    return {
        name: f"choice({', '.join(map(str, value))})" if isinstance(value, list) else str(value)
        for name, value in found.items()
    }


def tidy(space: Space, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What was drawn, to three digits, so that it can be read and typed; what trains is what is shown."""
    return {
        name: min(max(float(f"{value:.3g}"), space[name].values[0]), space[name].values[1])
        if space[name].kind in ("log", "uniform")
        else value
        for name, value in chosen.items()
    }


def with_choice(recipe: Recipe, config: TrainConfig, chosen: Mapping[str, Any]) -> tuple[Recipe, TrainConfig]:
    """The recipe and the configuration with the chosen values in the fields of these names."""
    of_recipe = {name: value for name, value in chosen.items() if name in names_of(recipe)}
    of_config = {name: value for name, value in chosen.items() if name not in of_recipe}
    return dataclasses.replace(recipe, **of_recipe), dataclasses.replace(config, **of_config)


def names_of(settings: Recipe | TrainConfig) -> set[str]:
    """The names of its fields."""
    return {field.name for field in dataclasses.fields(settings)}
