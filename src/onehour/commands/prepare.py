"""onehour prepare: a recipe's data ahead of a training, by this process or by many on Ray."""

import dataclasses
import shlex
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onehour.cli import fail, parse, this_command
from onehour.commands.config import PrepareConfig
from onehour.errors import InputError
from onehour.recipe import RECIPES, Recipe, find_recipe

if TYPE_CHECKING:
    from onehour.data.prepare import Each, Index
    from onehour.data.shards import FileSum

PREPARE_HELP = f"""usage: onehour prepare RECIPE [options]

RECIPE is {", ".join(RECIPES)}, or the path of a Python file of your own.

  onehour prepare RECIPE --help    the options of that recipe"""


def prepare(arguments: Sequence[str]) -> None:
    """onehour prepare RECIPE [options]: prepare its data, and say what they are and where."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(PREPARE_HELP)
        return
    recipe, options = prepare_options(arguments)
    num_pieces = len(recipe.pieces())  # looks at the input before Ray starts
    if options.workers and not num_pieces:
        raise InputError(f"The data of {recipe.name()} are prepared by one process; leave --workers away.")
    from onehour.data.prepare import data_name
    from onehour.training.shared import place_of, prepare_ahead

    name = data_name(recipe)
    try:
        with processes(options) as each:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own would print where in Ray it came
            show(prepare_ahead(recipe, name, options.storage, each), num_pieces)
    except KeyboardInterrupt:
        fail("Stopped; the same command goes on with the files that are not there yet.", 130, at_once=True)
    place, index = place_of(name, options.storage)
    print(summary(recipe, index))
    print(f"kept in    {place}")
    print(f"try next   {this_command()} train {shlex.join(words_of(arguments[0], recipe, options.storage))}")


def prepare_options(arguments: Sequence[str]) -> tuple[Recipe, PrepareConfig]:
    """The options of onehour prepare: those of the recipe, and its own."""
    fields: list[tuple[str, Any]] = [("recipe", find_recipe(arguments[0])), ("prepare", PrepareConfig)]
    both = dataclasses.make_dataclass("PrepareOptions", fields, frozen=True)
    options: Any = parse(both, arguments[1:], f"prepare {arguments[0]}")
    return options.recipe, options.prepare


@contextmanager
def processes(options: PrepareConfig) -> Iterator["Each"]:
    """What calls a function with each of many numbers: this process, or workers on Ray.

    Raises:
        InputError: there is no such cluster, it has no room for the workers, or they would write to different disks.
    """
    if options.workers == 0:
        yield map
        return
    from onehour.cluster.address import cluster_address

    address = cluster_address(options.address)
    if address:
        check_storage(options, address)
    from onehour.cluster.prepare import workers_on_ray

    with workers_on_ray(options.workers, address) as each:
        yield each


def check_storage(options: PrepareConfig, address: str) -> None:
    """Refuse workers on the cluster at this address that would write to different disks."""
    if options.workers and not options.storage:
        raise InputError(
            f"Workers on the cluster at {address} write to a folder or URI that all nodes reach; name it by --storage."
        )


def show_preparing(recipe: Recipe) -> None:
    """Prepare the data in the cache, if they are not there, with a live line."""
    from onehour.data.prepare import data_name
    from onehour.training.shared import prepare_ahead

    show(prepare_ahead(recipe, data_name(recipe), None, map), len(recipe.pieces()))


def show(files: Iterable["FileSum"], num_pieces: int) -> None:
    """A live line of the files that are done, where the output is a terminal."""
    from onehour.show.terminal import draw, duration, in_bytes

    began, num_bytes = time.monotonic(), 0
    draw(f"preparing {num_pieces:,} files of samples" if num_pieces else "preparing the data")
    for done, file in enumerate(files, start=1):
        num_bytes += file.num_bytes
        left = (time.monotonic() - began) / done * (num_pieces - done)
        draw(f"{done:,} of {num_pieces:,} files of samples  {in_bytes(num_bytes)}  {duration(left)} left")
    draw("")


def summary(recipe: Recipe, index: "Index") -> str:
    """What was prepared, as aligned lines."""
    from onehour.show.terminal import count, in_bytes

    unit, size = recipe.unit()
    num_train, num_held_out = (
        sum(file.num_rows or 0 for file in index.files if file.name.startswith(side)) for side in ("train", "held_out")
    )
    lines = {
        "data": index.facts.get("about", recipe.name()),
        "samples": f"{num_train:,}{f' of {size:,} {unit}' if size > 1 else ''} to train on, {num_held_out:,} held out",
        "files": f"{count(len(index.files), 'file')}, {in_bytes(index.num_bytes)}",
    }
    return "\n".join(f"{name:<11}{text}" for name, text in lines.items())


def words_of(name: str, recipe: Recipe, storage: str | None) -> list[str]:
    """The arguments with which a training finds these data."""
    options = {
        f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if getattr(recipe, f.name) != f.default
    }
    changed = [
        f"--{option.replace('_', '-')}={value}" for option, value in (options | {"storage": storage}).items() if value
    ]
    return [name, *changed]
