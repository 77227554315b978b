"""The space of a search, as text."""

import dataclasses
import json

import pytest

from onehour.errors import InputError
from onehour.recipe import RECIPES, find_recipe
from onehour.recipes.digits import Digits
from onehour.recipes.gpt import GPTRecipe
from onehour.space import Domain, from_file, from_options, read_space, tidy, with_choice

CONFIG = Digits().defaults()


def read(**texts):
    return read_space(Digits(), CONFIG, texts)


def test_what_a_space_can_say():
    recipe, config, space = read(
        learning_rate="log(1e-4, 1e-1)", momentum="uniform(0, 0.9)", warmup_steps="int(0, 100)", width="int(8,64,4)",
        optimizer="choice(adamw, sgd)", clip="choice(None, 1)", audit="choice(True, False)", weight_decay="0.1",
        augmentation="0",
    )  # fmt: skip
    assert space == {
        "learning_rate": Domain("log", (1e-4, 0.1)),
        "momentum": Domain("uniform", (0.0, 0.9)),
        "warmup_steps": Domain("int", (0, 100)),
        "width": Domain("int", (8, 64), 4),
        "optimizer": Domain("choice", ("adamw", "sgd")),
        "clip": Domain("choice", (None, 1.0)),
        "audit": Domain("choice", (True, False)),
    }
    assert (recipe, config) == (Digits(augmentation=0), dataclasses.replace(CONFIG, weight_decay=0.1))
    assert type(recipe.augmentation) is float
    again = read(**{name: str(domain) for name, domain in space.items()})
    assert again == (Digits(), CONFIG, space)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_space(name):
    recipe = find_recipe(name)()
    assert len(read_space(recipe, recipe.defaults(), recipe.space())[2]) >= 2


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("learning_rat", "1", "no hyperparameter 'learning_rat'; did you mean learning_rate"),
        ("xyz", "1", "no hyperparameter 'xyz'; there are activation_checkpointing, audit, audit_ids"),
        ("learning_rate", "fast", "learning_rate cannot be 'fast': it takes a number."),
        ("learning_rate", "nan", "learning_rate cannot be 'nan'"),
        ("learning_rate", "log(0, 1)", "has no values; write log.* both above 0"),
        ("learning_rate", "log(1, 0.1)", "LOW less than HIGH, both above 0"),
        ("learning_rate", "uniform(1, 1)", "has no values; write uniform"),
        ("learning_rate", "log(1e-4)", "is no space; write log"),
        ("learning_rate", "normal(0, 1)", "is no space; write log"),
        ("learning_rate", "choice()", "is no space; write log"),
        ("learning_rate", "uniform(-1, 1)", "learning_rate is -1.0; it must be greater than 0."),
        ("learning_rate", "int(1, 2)", "learning_rate takes a number; write uniform"),
        ("width", "uniform(16, 32)", "width takes a whole number; write int"),
        ("width", "int(16, 32)", "width is 17; it must be a multiple of 4"),
        ("width", "int(16, 33, 4)", "cannot be stepped; write int"),
        ("width", "choice(16, 3.5)", "width cannot be '3.5': it takes a whole number."),
        ("optimizer", "choice(adamw, adam)", "optimizer cannot be 'adam': it takes .*sgd"),
        ("clip", "choice(no, 1)", "clip cannot be 'no': it takes a number or None."),
        ("learning_rate", "0.1", "nothing to choose"),
        ("learning_rate", "choice(0.1, 0.1)", "nothing to choose"),
    ],
)
def test_a_space_that_cannot_be(name, text, said):
    with pytest.raises(InputError, match=said):
        read(**{name: text})


def test_an_empty_space_cannot_be():
    with pytest.raises(InputError, match="nothing to choose: the space has no range; give one by --space NAME="):
        read()


def test_the_options_replace_what_was_there():
    assert from_options(["learning-rate=log(1, 2)", "a = b=c"]) == {"learning_rate": "log(1, 2)", "a": " b=c"}
    for option in ("learning_rate", "=1", "a="):
        with pytest.raises(InputError, match="says no space; write NAME=TEXT"):
            from_options([option])


def test_files(tmp_path):
    said = {"learning_rate": "log(1e-4, 1e-1)", "optimizer": ["adamw", "sgd"], "width": 16}
    wanted = {"learning_rate": "log(1e-4, 1e-1)", "optimizer": "choice(adamw, sgd)", "width": "16"}
    (tmp_path / "space.json").write_text(json.dumps(said))
    (tmp_path / "space.toml").write_text(
        'learning_rate = "log(1e-4, 1e-1)"\noptimizer = ["adamw", "sgd"]\nwidth = 16\n'
    )
    assert from_file(tmp_path / "space.json") == from_file(tmp_path / "space.toml") == wanted
    (tmp_path / "list.json").write_text("[1]")
    for name in ("nothing.json", "list.json"):
        with pytest.raises(InputError, match=f"--space-file .*{name} cannot be read .* give a JSON or TOML file"):
            from_file(tmp_path / name)


def test_what_is_drawn_is_short_and_stays_in_its_range():
    space = {
        "a": Domain("log", (0.0001234567, 1.0)),
        "b": Domain("uniform", (0.0, 0.99999)),
        "c": Domain("choice", (0.12345,)),
    }
    drawn = {"a": 0.012345678, "b": 0.9999, "c": 0.12345}
    assert tidy(space, drawn) == {"a": 0.0123, "b": 0.99999, "c": 0.12345}
    assert tidy(space, drawn | {"a": 0.0001234999})["a"] == 0.0001234567


def test_a_choice_goes_to_recipe_and_configuration():
    recipe, config = with_choice(GPTRecipe(), GPTRecipe().defaults(), {"depth": 3, "learning_rate": 0.5})
    assert (recipe.depth, config.learning_rate) == (3, 0.5)
    assert recipe == GPTRecipe(depth=3)
