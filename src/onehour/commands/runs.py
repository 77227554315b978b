"""onehour runs and rm: which runs there are, and removing some."""

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onehour.cli import parse, runs_and_options
from onehour.config import RemoveConfig, RunsConfig
from onehour.errors import InputError

if TYPE_CHECKING:
    from onehour.training.run import Run


def runs(arguments: Sequence[str]) -> None:
    """onehour runs: the runs in a folder or a storage, the latest first."""
    options = parse(RunsConfig, arguments, "runs")
    from pyarrow import ArrowException

    from onehour.show.runs import runs_text, summaries
    from onehour.training.run import Run
    from onehour.training.storage import find_storage, reason

    place = options.storage or str(options.runs)
    try:
        found = summaries(
            find_storage(place), lambda name: not options.storage and Run(options.runs / name).is_locked()
        )
    except (OSError, ArrowException) as error:
        raise InputError(f"The runs in {place} cannot be listed ({reason(error)}).") from error
    print(runs_text(found) if found else f"There is no run in {place} yet; train one by: onehour train gpt")


def rm(arguments: Sequence[str]) -> None:
    """onehour rm RUN ...: remove runs with their checkpoints, after a question."""
    names, options = runs_and_options(RemoveConfig, arguments, "rm")
    from onehour.training.run import Run, open_run
    from onehour.training.storage import remove_copies
    from onehour.training.trials import find_search

    found = []
    for name in names if not options.storage else ():  # all of them are there, a search with all of its trials
        search = find_search(options.runs, name)
        found.append(Run(search.folder) if search else open_run(options.runs, name))
    if not options.yes:
        ask(f"Remove {', '.join(names)} from {options.storage or options.runs.absolute()}, with all checkpoints?")
    if options.storage:
        remove_copies(options.storage, names)
    for run in found:
        remove(run)
    print(f"removed    {', '.join(names)}")


def remove(run: "Run") -> None:
    """Remove a run's folder with all that is in it.

    Raises:
        InputError: it is being trained, or something of it cannot be removed.
    """
    try:
        with run.lock():
            shutil.rmtree(run.folder)
    except OSError as error:
        raise InputError(
            f"The run {run.name} could not be removed whole ({error.strerror}: {error.filename})."
        ) from error


def ask(question: str) -> None:
    """Ask on the terminal, and leave unless the answer is yes.

    Raises:
        InputError: there is nobody to ask, or the answer was another one.
    """
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is no terminal to answer at; add --yes.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise InputError("Nothing was removed.")
