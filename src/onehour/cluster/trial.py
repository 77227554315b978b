"""What a trial of onehour search does: it is a run, trained by the same `train` as everywhere.

A trial of one worker is a function on an actor that goes on to the next trial; it imports torch once. A trial of several
workers is a driver, which takes no CPU, of a TorchTrainer.
"""

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune

from onehour.cluster.attempt import Attempt
from onehour.cluster.launch import diagnose
from onehour.cluster.preflight import nodes, wait_for_room
from onehour.config import ScaleConfig, SearchConfig, TrainConfig
from onehour.data.prepare import prepare
from onehour.recipe import Recipe
from onehour.space import tidy, with_choice
from onehour.training.checkpoint import read_facts
from onehour.training.keep import append, keep, to_row
from onehour.training.loop import train
from onehour.training.run import Run, failure_of
from onehour.training.shared import publish
from onehour.training.trials import Search


def one_worker(chosen: dict[str, Any], folder: str) -> None:
    """A trial of one worker, in an actor of Tune. When Tune wants no more of it, tune.report does not return."""
    search = Search(Path(folder))
    with run_of_this_trial(search) as run:
        recipe, config = begin(search, run, chosen)
        start, _ = run.newest_checkpoint()
        tell_the_end(run, start)
        for report in keep(train(recipe, config, start), run, config.keep, settled=True):
            if report.step and "held_out_loss" in report.metrics:
                tell_tune(to_row(report), run, with_checkpoint=search.asked().options.scheduler == "pbt")


def several_workers(chosen: dict[str, Any], folder: str) -> None:
    """A trial of several workers: this actor of Tune is the driver of their trainer.

    When Tune wants no more of it, the workers have heard by their stop file: they finish the step, save and leave.
    """
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"  # Tune waits so long for that before the next trial comes here
    search = Search(Path(folder))
    with run_of_this_trial(search) as run:
        recipe, config = begin(search, run, chosen)
        scale = scale_of(search.asked().options)
        for _ in wait_for_room(scale, scale.sizes(), math.inf):  # the last trial's workers may be about to leave
            pass
        start, _ = run.newest_checkpoint()
        tell_the_end(run, start)
        attempt = Attempt(recipe, config, scale, max(scale.sizes()), run, start)
        rows = attempt.follow(lambda: None)
        try:
            for row in rows:
                if row.get("step") and "held_out_loss" in row:
                    tell_tune(row, run)
        except SystemExit:
            run.stop_file.touch()
            for _ in rows:
                pass
            raise
        if attempt.error:
            diagnose(attempt.error, run, None, -1)


@contextmanager
def run_of_this_trial(search: Search) -> Iterator[Run]:
    """The run of the trial that this actor was given; an error is written down there, for the table."""
    run = Run(search.folder / tune.get_context().get_trial_name())
    run.failure_file.unlink(missing_ok=True)
    try:
        yield run
    except Exception as error:
        run.note_failure(failure_of(error))
        raise


def begin(search: Search, run: Run, chosen: dict[str, Any]) -> tuple[Recipe, TrainConfig]:
    """Describe a trial's run, and put the checkpoint there that Tune gives, if any; returns what is to be trained."""
    asked = search.asked()
    recipe, config = with_choice(asked.recipe, asked.trial_config(), tidy(asked.space, chosen))
    data = prepare(recipe)
    run.describe(recipe, config, scale_of(asked.options), data)
    if len(nodes()) > 1:
        publish(data, str(search.folder))  # the workers may be on other nodes
    if given := tune.get_checkpoint():  # pbt: of this member or of a better one; whatever there was does not count
        with given.as_directory() as folder:
            shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
            shutil.copytree(folder, run.checkpoint_at(read_facts(Path(folder))["step"]))
        append(run.metrics_file, [given.get_metadata()["row"]])  # its last one, if the other was at its end
    return recipe, config


def tell_the_end(run: Run, start: Path | None) -> None:
    """Of a trial that was at its end before a crash, tell that: there is nothing left to train."""
    last = run.rows()[-1] if start and run.rows() else {"step": 0, "num_steps": 1}
    if start and last["step"] == last["num_steps"] == read_facts(start)["step"]:
        tell_tune(last, run)


def tell_tune(row: dict[str, Any], run: Run, with_checkpoint: bool = False) -> None:
    """Tell Tune of an evaluation, a row of metrics.jsonl."""
    held_out = {name: value for name, value in row.items() if name.startswith("held_out_")}
    where = {"step": row["step"], "num_steps": row["num_steps"], "progress": row["step"] / row["num_steps"]}
    checkpoint = tune.Checkpoint(str(run.checkpoint_at(row["step"]))) if with_checkpoint else None
    if checkpoint:
        checkpoint.set_metadata({"row": row})
    tune.report(where | held_out, checkpoint=checkpoint)


def scale_of(options: SearchConfig) -> ScaleConfig:
    """On how much hardware each trial trains."""
    return ScaleConfig(
        workers=options.workers, gpu=options.gpu, cpus_per_worker=options.cpus_per_worker, max_failures=0
    )
