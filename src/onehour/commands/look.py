"""onehour show, audit, doctor and learn: what there is to look at in a run, on this machine, in the course."""

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence

from onehour.cli import parse, run_and_options
from onehour.config import LearnConfig, ShowConfig
from onehour.errors import InputError, TrainingError


def show(arguments: Sequence[str]) -> None:
    """onehour show RUN: its curve, its evaluations, its configuration and where it is."""
    name, options = run_and_options(ShowConfig, arguments, "show")
    from onehour.show.curve import draw_curve, save_curve
    from onehour.show.table import configuration_text, evaluations_text
    from onehour.training.run import open_run

    run = open_run(options.runs, name)
    rows = run.rows()
    if not rows:
        raise InputError(f"The run {run.name} has told nothing yet; look again after its first steps.")
    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    print(draw_curve(rows, shutil.get_terminal_size().columns, colorless=plain))
    print(f"\n{evaluations_text(rows)}\n")
    print(configuration_text(run.config(), run.newest_checkpoint()[0]))
    print(f"run        {run.folder}")
    with contextlib.suppress(OSError):  # a run that one may read and not write has its terminal curve
        print(f"curve      {save_curve(rows, run.name, run.folder / 'curve.png')}")


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
    options = parse(ShowConfig, arguments, "doctor")
    from onehour.show.doctor import examine

    troubles = 0
    for finding in examine(options.runs):
        print(finding.line(), flush=True)
        troubles += finding.trouble
    if troubles:
        raise TrainingError(f"{troubles} of these would keep onehour from working: see the lines that begin with !")


def learn(arguments: Sequence[str]) -> None:
    """onehour learn: the course in JupyterLab, in a copy that may be changed."""
    options = parse(LearnConfig, arguments, "learn")
    from onehour.course.learn import open_course

    open_course(options.folder, options.language)
