"""onehour runs and rm: which runs there are, and removing some."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from onehour.cli import parse, runs_and_options
from onehour.commands.config import RemoveConfig, RunsConfig
from onehour.errors import InputError

if TYPE_CHECKING:
    from onehour.training.run import Run


def runs(arguments: Sequence[str]) -> None:
    """onehour runs: the runs, searches and scalings in a folder or a storage, the latest first."""
    options = parse(RunsConfig, arguments, "runs")
    from onehour.show.runs import runs_text, summaries
    from onehour.training.run import Run
    from onehour.training.storage import find_storage

    place = place_of(options)
    with told_if_not_listed(place):
        found = summaries(
            find_storage(place), lambda name: not options.storage and Run(options.runs / name).is_locked()
        )
    print(runs_text(found) if found else f"There is no run in {place} yet; train one by: onehour train gpt")


def rm(arguments: Sequence[str]) -> None:
    """onehour rm RUN ...: remove runs with their checkpoints, and searches with their trials, after a question."""
    names, options = runs_and_options(RemoveConfig, arguments, "rm")
    from onehour.show.runs import KINDS
    from onehour.training.run import Run, no_run
    from onehour.training.storage import find_storage, names_in, remove_copies

    place, names = place_of(options), list(dict.fromkeys(names))
    with told_if_not_listed(place):
        there = sorted(names_in(find_storage(place), KINDS))
    for name in names:  # by name only: a path could lead to a folder that is no run and has a config.json
        if name not in there:
            raise no_run(name, place, there)
    if not options.yes:
        ask(f"Remove {', '.join(names)} from {place}, with all checkpoints?")
    if options.storage:
        remove_copies(options.storage, names)
    else:
        remove([Run(options.runs.absolute() / name) for name in names])
    print(f"removed    {', '.join(names)}")


def place_of(options: RunsConfig) -> str:
    """Where the runs are: the storage, or the folder by its absolute path."""
    return options.storage or str(options.runs.absolute())


@contextmanager
def told_if_not_listed(place: str) -> Iterator[None]:
    """Turn what pyarrow raises about a storage into an InputError."""
    from pyarrow import ArrowException

    from onehour.training.storage import reason

    try:
        yield
    except (OSError, ArrowException) as error:
        raise InputError(f"The runs in {place} cannot be listed ({reason(error)}).") from error


def remove(runs: "Sequence[Run]") -> None:
    """Remove the folders of runs with all that is in them.

    Raises:
        InputError: one is being trained, and then none is removed; or something cannot be removed.
    """
    try:
        with ExitStack() as locks:
            for run in runs:
                locks.enter_context(run.lock())
            for run in runs:
                shutil.rmtree(run.folder)
    except OSError as error:
        raise InputError(f"Not everything could be removed ({error.strerror}: {error.filename}).") from error


def ask(question: str) -> None:
    """Ask on the terminal, and leave unless the answer is yes.

    Raises:
        InputError: there is nobody to ask, or the answer was another one.
    """
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is no terminal to answer at; add --yes.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise InputError("Nothing was removed.")
