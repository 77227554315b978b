"""onehour show, audit, doctor and learn: what there is to look at in a run, on this machine, in the course."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from onehour.cli import parse, run_and_options, runs_and_options
from onehour.commands.config import DoctorConfig, LearnConfig, ShowConfig, ShowRunsConfig
from onehour.commands.options import recipe_options
from onehour.errors import InputError, TrainingError
from onehour.recipe import find_recipe

if TYPE_CHECKING:
    from onehour.training.run import Run


def show(arguments: Sequence[str]) -> None:
    """onehour show RUN ...: its curve, its evaluations, its configuration and where it is; several runs compared."""
    names, options = runs_and_options(ShowRunsConfig, arguments, "show")
    from onehour.show.compare import check_comparable
    from onehour.training.run import open_run

    runs = [open_run(options.runs, name) for name in dict.fromkeys(names)]
    check_comparable(runs)
    for run in runs:
        if not run.rows():
            raise InputError(f"The run {run.name} has told nothing yet; look again after its first steps.")
    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    with told_if_not_written():
        if len(runs) == 1:
            show_one(runs[0], options.png, plain)
        else:
            show_several(runs, options.png, plain)
        if options.html:
            from onehour.show.page import save_page

            print(f"page       {save_page(runs, options.html)}")


def show_one(run: "Run", png: Path | None, plain: bool) -> None:
    """Print a run's curve, evaluations, configuration and faults."""
    from onehour.show.compare import faults_text, pace_text
    from onehour.show.curve import draw_curve, save_curve
    from onehour.show.table import configuration_text, evaluations_text, tables_text

    rows = run.rows()
    print(draw_curve(rows, shutil.get_terminal_size().columns, colorless=plain))
    print(f"\n{evaluations_text(rows)}\n")
    print(tables_text(rows[-1], run.facts()), end="")
    print(configuration_text(run.config(), run.newest_checkpoint()[0]))
    print(pace_text(run))
    print(faults_text(run))
    print(f"run        {run.folder}")
    # A run that one may read and not write has its terminal curve.
    with contextlib.nullcontext() if png else contextlib.suppress(OSError):
        print(f"curve      {save_curve(rows, run.name, png or run.folder / 'curve.png')}")


def show_several(runs: "Sequence[Run]", png: Path | None, plain: bool) -> None:
    """Print the losses of several runs, what came out of each, and in what they differ."""
    from onehour.show.compare import differences_text, draw_runs, results_text, save_runs

    print(draw_runs(runs, colorless=plain))
    print(f"\n{results_text(runs)}\n\n{differences_text(runs)}\n")
    if png:
        print(f"curve      {save_runs(runs, png)}")


@contextlib.contextmanager
def told_if_not_written() -> Iterator[None]:
    """Turn an error of the disk into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written ({error.strerror}); choose another path.") from error


def audit(arguments: Sequence[str]) -> None:
    """onehour audit RUN: whether every sample of every epoch was trained once; exit code 1 if not."""
    name, options = run_and_options(ShowConfig, arguments, "audit")
    from onehour.show.account import account_text
    from onehour.training.checkpoint import read_facts
    from onehour.training.record import examine, read_record
    from onehour.training.run import open_run

    run = open_run(options.runs, name)
    attempts = read_record(run.audit_file)
    checkpoint, _ = run.newest_checkpoint()
    if checkpoint is None:
        raise InputError(f"The run {run.name} has no good checkpoint yet, so there is nothing to account for.")
    facts = read_facts(checkpoint)
    account = examine(attempts, facts["attempt"], facts["step"])
    print(account_text(account))
    if account.wrong or account.lost or account.twice:
        raise TrainingError(f"The record of {run.name} does not prove that every sample was trained once.")


def doctor(arguments: Sequence[str]) -> None:
    """onehour doctor: what there is; exit code 1 if something would not work."""
    without_help = [a for a in arguments if a not in ("-h", "--help")]
    name = tyro.cli(DoctorConfig, args=without_help, return_unknown_args=True)[0].recipe
    if name is None:
        training, options = None, parse(DoctorConfig, arguments, "doctor")
    else:
        training = recipe_options(
            find_recipe(name)(),
            lambda recipe: recipe.defaults(),
            arguments,
            "doctor",
            doctor=(DoctorConfig, DoctorConfig()),
        )
        options = training.doctor
    from onehour.show.doctor import Finding, examine, memory_of_training

    findings: Iterator[Finding] = examine(options.runs)
    if training is not None:
        findings = chain(findings, [memory_of_training(training.recipe, training.train)])
    troubles = 0
    for finding in findings:
        print(finding.line(), flush=True)
        troubles += finding.trouble
    if troubles:
        raise TrainingError(f"{troubles} of these would keep onehour from working: see the lines that begin with !")


def learn(arguments: Sequence[str]) -> None:
    """onehour learn: the course in JupyterLab, in a copy that may be changed."""
    options = parse(LearnConfig, arguments, "learn")
    from onehour.course.learn import open_course

    open_course(options.folder, options.language)
