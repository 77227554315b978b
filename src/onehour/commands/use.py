"""onehour predict: a trained model at work on rows of data."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onehour.cli import fail, run_and_options
from onehour.commands.config import PredictConfig
from onehour.commands.language import run_or_path
from onehour.errors import InputError

if TYPE_CHECKING:
    from onehour.data.prepare import Each
    from onehour.show.folder import Job
    from onehour.training.run import Run


def predict(arguments: Sequence[str]) -> None:
    """onehour predict RUN|PATH [options]: predictions as a table, as a Parquet file, or as a folder of them."""
    name, options = run_and_options(PredictConfig, arguments, "predict")
    found = run_or_path(options.runs, name)
    if options.output and not options.output.suffix:
        fill_folder(job_of(found, options), options)
        return
    if isinstance(found, Path) or options.workers:
        raise InputError(
            "predict fills a folder here: name the prompts by --input TABLE.parquet, and it by --output FOLDER."
        )
    predict_table(found, options)


def predict_table(run: "Run", options: PredictConfig) -> None:
    """All predictions at once, shown or as a file."""
    from onehour.show.predictions import check, predict_rows, predictions_text, read_input, write_predictions
    from onehour.training.run import load_trained

    recipe, model = load_trained(run)
    check(recipe, options.output)
    rows = read_input(recipe, options.input, run.folder / "data")
    predicted = predict_rows(recipe, model, rows, run.facts().get("labels"))
    if options.output:
        write_predictions(predicted, options.output)
        print(f"{len(rows):,} predictions in {options.output}")
    else:
        print(predictions_text(predicted))


def job_of(found: "Run | Path", options: PredictConfig) -> "Job":
    """The work that fills a folder with predictions, tried on the first row.

    Raises:
        InputError: it cannot be done.
    """
    from onehour.data.prepare import prepare
    from onehour.show.folder import Continue, Job, find_inputs, prompts_of, read_rows
    from onehour.show.predictions import check, own_columns, to_columns
    from onehour.training.run import Run, good_checkpoint

    if options.input is None:
        raise InputError(
            "A folder of predictions wants its rows: name a Parquet file, or a folder of them, by --input."
        )
    assert options.output is not None
    inputs, folder = find_inputs(options.input), options.output.absolute()
    first = read_rows(inputs, 0, 1)
    recipe = found.recipe() if isinstance(found, Run) else None
    prompts = Continue(options.column, options.batch_size, options.choice(), options.chat)
    how = None if recipe and recipe.next_command() == "predict" else prompts
    wanted = None
    if how:
        prompts_of(first, how.column, inputs[0].path)
    else:
        assert recipe is not None and isinstance(found, Run)
        check(recipe, None)
        if own_columns(recipe, first, found.folder / "data") is None:
            wanted = prepare(recipe).held_out[[0]]
            to_columns(first, wanted, inputs[0].path)
    if isinstance(found, Run):
        return Job(folder, inputs, good_checkpoint(found), found.folder, how, wanted)
    return Job(folder, inputs, found.absolute(), None, how, wanted)


def fill_folder(job: "Job", options: PredictConfig) -> None:
    """Make all parts that are not there, with a live line."""
    from onehour.show.terminal import count, draw, duration
    from onehour.training.locked import locked

    job.begin()
    began = time.monotonic()
    try:
        with locked(job.work, f"Another process fills {job.folder}; end that first."), processes(options) as each:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own would print where in Ray it came
            for done, _ in enumerate(each(job, job.parts), start=1):
                left = (time.monotonic() - began) / done * (len(job.parts) - done)
                draw(f"{done:,} of {len(job.parts):,} files of predictions  {duration(left)} left")
    except KeyboardInterrupt:
        fail("Stopped; the same command goes on with the files that are not there yet.", 130, at_once=True)
    draw("")
    print(f"{job.num_rows:,} predictions in {options.output}, {count(len(job.parts), 'file')}")


@contextmanager
def processes(options: PredictConfig) -> "Iterator[Each]":
    """What calls a function with each of many numbers: this process, or workers on Ray."""
    if options.workers == 0:
        yield map
        return
    from onehour.cluster.address import cluster_address
    from onehour.cluster.prepare import workers_on_ray

    with workers_on_ray(options.workers, cluster_address(options.address)) as each:
        yield each
