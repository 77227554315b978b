"""Keeping what a training tells: its metrics, its checkpoints, its record."""

import json
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from onehour.errors import DivergedError, InputError, TrainingError
from onehour.training.checkpoint import State
from onehour.training.loop import Report
from onehour.training.run import Run
from onehour.training.storage import upload
from onehour.training.track import trackers


def keep(
    reports: Iterable[Report], run: Run, num_checkpoints: int | None = None, storage: str | None = None,
    settled: bool = False,
) -> Iterator[Report]:  # fmt: skip
    """Pass the reports of `train` on, each one after it has been written to the run's folder.

    For the worker of rank 0, which has everything that is to be kept. Checkpoints are copied at once and written by a
    thread while the training goes on; the next one waits for the last, and the end for all. The newest
    `num_checkpoints` stay, and the one of the lowest held-out loss. The same thread copies them to `storage`; if that
    fails, a report has a warning, and the next checkpoint tries again. There is a warning, too, where MLflow takes no
    more. `settled`: a report comes only when its checkpoint is written, for somebody who may not ask for the next one.

    Raises:
        TrainingError: the folder cannot be written (a full disk); the checkpoints so far stay as they are. Or the last
            checkpoint could not be copied to the storage.
    """
    sweep(run)
    with ThreadPoolExecutor(1, thread_name_prefix="checkpoint") as writer, trackers(run) as track:
        writing: Future[str | None] | None = writer.submit(copy_newest, run, storage) if storage else None
        for report in with_samples_that_diverged(reports, run):
            with a_full_disk_told(run, storage):
                if writing and (report.checkpoint or writing.done()):
                    report, writing = replace(report, warning=writing.result()), None  # or raises what went wrong
                if report.checkpoint:
                    writing = writer.submit(save, report.checkpoint.copy(), run, num_checkpoints, storage)
                    if settled:
                        wait([writing])
                if warning := track(to_row(report)):
                    report = replace(report, warning=" ".join(filter(None, [report.warning, warning])))
                append(run.metrics_file, [to_row(report)])
                append(run.audit_file, report.trained)
            yield report
        with a_full_disk_told(run, storage):
            not_copied = writing.result() if writing else None
        if storage and not not_copied:
            not_copied = copy_newest(run, storage)  # the reports since then
        if not_copied:
            raise TrainingError(
                f"{not_copied} The run is whole in {run.folder}; copy it by: {run.resume_command(storage)}"
            )


def keep_part(reports: Iterable[Report]) -> Iterator[Report]:
    """The same beside rank 0: nothing is kept, but for this worker's parts of the checkpoints of a sharded model.

    If one of the workers cannot write its part, rank 0 hears of it and ends the training.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="checkpoint") as writer:
        writing: list[Future[None]] = []
        for report in reports:
            if report.checkpoint and report.checkpoint.saving:
                wait(writing)
                writing = [writer.submit(report.checkpoint.copy().save_part)]
            yield report


@contextmanager
def a_full_disk_told(run: Run, storage: str | None) -> Iterator[None]:
    """Turn an error of the disk into a TrainingError that says what to do."""
    try:
        yield
    except OSError as error:
        raise TrainingError(not_kept(run, error.strerror or str(error), storage)) from error


def not_kept(run: Run, reason: str, storage: str | None) -> str:
    """What to tell when the run's folder cannot be written."""
    return (
        f"The run {run.name} could not be kept in {run.folder}: {reason}; make room there and go on with: "
        f"{run.resume_command(storage)}"
    )


def with_samples_that_diverged(reports: Iterable[Report], run: Run) -> Iterator[Report]:
    """Pass the reports on; where the training diverges, write diverged.json first."""
    try:
        yield from reports
    except DivergedError as error:
        ids = {"step": error.step, "sample_ids": error.sample_ids}
        (run.folder / "diverged.json").write_text(json.dumps(ids))
        raise


def save(state: State, run: Run, num_checkpoints: int | None, storage: str | None = None) -> str | None:
    """Write a checkpoint and copy it to the storage; remove those that need not stay.

    Returns what went wrong with the copy, or None.
    """
    folder = state.save(run.checkpoint_at(state.facts["step"]))
    there = run.checkpoints()
    stay = {run.best_checkpoint(), *there[-(num_checkpoints or len(there)) :]}
    for old in (old for old in there if old not in stay):
        shutil.rmtree(old)
    return upload(run, folder, storage, num_checkpoints) if storage else None


def copy_newest(run: Run, storage: str) -> str | None:
    """Copy what of the run's newest state the storage does not have yet; returns what went wrong, or None."""
    newest, _ = run.newest_checkpoint()
    return upload(run, newest, storage, None, anew=False) if newest else None


def sweep(run: Run) -> None:
    """Remove what a worker that was killed left of a checkpoint it was writing."""
    for folder in (run.folder / "checkpoints").glob(".step_*"):
        shutil.rmtree(folder, ignore_errors=True)


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a file as lines of JSON; after a line that was cut off, on a new line."""
    if not rows:
        return
    with path.open("a+b") as file:
        if file.seek(0, 2):
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def to_row(report: Report) -> dict[str, Any]:
    """A report as a line of metrics.jsonl."""
    notes = {"checkpoint": bool(report.checkpoint), "interrupted": report.interrupted}
    row = {"step": report.step, "num_steps": report.num_steps, "samples": report.samples} | report.metrics
    row |= {name: True for name, noted in notes.items() if noted}
    return row | {"warning": report.warning} if report.warning else row


def check_room(folder: Path, state_bytes: int, num_checkpoints: int, fewer: str = "use --keep 1") -> None:
    """Make sure that the disk under `folder` has room for that many checkpoints, and one that is being written.

    Raises:
        InputError: it has not; `fewer` says how to need less.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    need, free = state_bytes * (num_checkpoints + 1), shutil.disk_usage(there).free
    if need > free:
        raise InputError(
            f"{num_checkpoints} checkpoints of {state_bytes / 1e6:,.0f} MB need {need / 1e6:,.0f} MB in {folder}, "
            f"which has {free / 1e6:,.0f} MB free; make room, {fewer}, or choose another folder by --runs."
        )
