"""onehour search: Ray Tune says which trials there are and which go on; what a trial does is in trial.py."""

import json
import logging
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, Searcher

from onehour.cluster.nodes import check_nodes
from onehour.cluster.preflight import nodes, room_on, what_is_missing
from onehour.cluster.trial import one_worker, scale_of, several_workers
from onehour.config import SearchConfig, seconds
from onehour.errors import InputError
from onehour.space import Domain, tidy
from onehour.training.run import Run, create_run
from onehour.training.trials import Asked, Search, Trial

Tell = Callable[[list[Trial]], None]
SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # without it, Tune prints a frame even when it is asked to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each trial has its metrics.jsonl
    "TUNE_GLOBAL_CHECKPOINT_S": "2",  # how often Tune writes down what --resume goes on from
}
REDUCTION = 4  # asha: one of so many goes on; the default of Ray, too
ALMOST = 1 - 1e-9  # so that a step of 1/12, times 4, is not after 1/3
LEAVE_SECONDS = 60.0  # for workers that are about to save; they are asked once a second whether to
LOOK_SECONDS = 0.05
STATES = {TuneTrial.RUNNING: "running", TuneTrial.ERROR: "failed"}


def run_trials(search: Search, num_steps: int, tell: Tell, resume: bool = False) -> bool:
    """Run the trials of `search` on the Ray that this process is connected to; returns whether Ctrl-C has ended it.

    `tell` hears of all trials whenever something has happened to one. `num_steps` is how many a trial has by default.

    Raises:
        InputError: the cluster has no room for a trial, or its nodes do not share the folder.
    """
    asked = search.asked()
    options = asked.options
    at_once = trials_at_once(options)
    if len(nodes()) > 1:
        check_nodes(Run(search.folder))
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's error is in its row
    with settings(), interruptible() as interrupted:
        analysis = tune.run(
            partial(one_worker if options.workers == 1 else several_workers, folder=str(search.folder)),
            name="tune",
            storage_path=str(search.folder),
            config={name: to_tune(domain, options.searcher) for name, domain in asked.space.items()},
            num_samples=asked.num_trials() if options.searcher != "grid" else 1,
            metric=options.metric,
            mode="max" if options.maximize else "min",
            search_alg=searcher_of(asked, at_once),
            scheduler=scheduler_of(asked, num_steps),
            max_concurrent_trials=at_once if options.searcher == "optuna" else None,  # the others know it themselves
            time_budget_s=seconds(options.time) if options.time else None,
            resources_per_trial=tune.PlacementGroupFactory([resources_of_trial(options)]),
            reuse_actors=True,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=4),  # of pbt, whose members copy one another
            trial_name_creator=partial(new_trial, folder=search.folder),
            trial_dirname_creator=str,
            callbacks=[Watch(search, asked, tell)],
            resume="AUTO" if resume else None,  # which begins anew if it was killed before its first note
            raise_on_failed_trial=False,
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # the one for notebooks shows a table even if it should not
        )
    if not interrupted():
        sweep(search, {str(trial) for trial in analysis.trials})
    return interrupted()


def sweep(search: Search, names: set[str]) -> None:
    """Remove the folders of trials that a crash has taken from Tune's notes: others were drawn in their place."""
    for folder in search.folder.glob("trial-*"):
        if folder.name not in names:
            shutil.rmtree(folder)


def new_trial(trial: TuneTrial, folder: Path) -> str:
    """The name of a trial: the next number that has no folder yet. It has one then."""
    return create_run(folder, None, "trial").name


def trials_at_once(options: SearchConfig) -> int:
    """How many trials there is room for, or fewer if that was asked for.

    More would wait for workers that never come.

    Raises:
        InputError: there is no room for one trial, or for as many at once as asked for.
    """
    there = nodes()
    scale = scale_of(options)
    room = sum(room_on(node.total, options.cpus_per_worker, options.gpu) for node in there) // options.workers
    if not room:
        raise InputError(what_is_missing(scale, options.workers, there, free=False))
    if (options.at_once or 0) > room:
        raise InputError(
            f"{options.at_once} trials at once do not fit; there is room for {room}: use --at-once {room}."
        )
    return options.at_once or room


def resources_of_trial(options: SearchConfig) -> dict[str, float]:
    """What Tune reserves for a trial: its worker's, or where it has several, the driver's byte of memory."""
    if options.workers > 1:
        return {"memory": 1}
    return {"CPU": options.cpus_per_worker} | ({"GPU": 1.0} if options.gpu else {})


def to_tune(domain: Domain, searcher: str) -> Any:
    """A domain as Tune says it."""
    if domain.kind == "choice":
        return tune.grid_search(list(domain.values)) if searcher == "grid" else tune.choice(domain.values)
    low, high = domain.values
    if domain.kind == "int":
        return tune.randint(low, high + 1) if domain.step == 1 else tune.qrandint(low, high, domain.step)
    return tune.loguniform(low, high) if domain.kind == "log" else tune.uniform(low, high)


def searcher_of(asked: Asked, at_once: int) -> Searcher | BasicVariantGenerator:
    """Who says what to try next; the seed of the training decides what is drawn."""
    if asked.options.searcher != "optuna":
        return BasicVariantGenerator(random_state=asked.config.seed, max_concurrent=at_once)
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings(
        "ignore", "The reported value is ignored"
    )  # Tune tells Optuna twice of a trial's last value
    return OptunaSearch(sampler=optuna.samplers.TPESampler(seed=asked.config.seed))


def scheduler_of(asked: Asked, num_steps: int) -> TrialScheduler:
    """Who says which trials go on. Time is the share of a trial's steps, which compares trials of any length."""
    first: Any = (asked.config.evaluate_every or num_steps) / num_steps * ALMOST
    kind = asked.options.scheduler
    if kind == "asha":
        end: Any = 1.0  # Tune's annotations want whole numbers; it computes with any
        return AsyncHyperBandScheduler(
            time_attr="progress", grace_period=min(first, end), max_t=end, reduction_factor=REDUCTION
        )
    if kind == "median":
        return MedianStoppingRule(time_attr="progress", grace_period=first)
    if kind == "pbt":
        return PopulationBasedTraining(
            time_attr="progress", perturbation_interval=first,
            hyperparam_mutations={
                name: list(domain.values) if domain.kind == "choice" else to_tune(domain, "random")
                for name, domain in asked.space.items()
            },
        )  # fmt: skip
    return FIFOScheduler()


@dataclass
class Watch(tune.Callback):
    """Tells of all trials when Tune tells of one."""

    search: Search
    asked: Asked
    tell: Tell

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.pass_on(trials)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        self.pass_on(trials)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        if self.asked.options.workers > 1:
            leave(Run(self.search.folder / str(trial)))
        self.pass_on(trials)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.pass_on(trials)

    def on_experiment_end(self, trials: list[TuneTrial], **info: Any) -> None:
        self.pass_on(trials)

    def pass_on(self, trials: list[TuneTrial]) -> None:
        """Tell of all trials."""
        self.tell([self.look_at(trial) for trial in trials])

    def look_at(self, trial: TuneTrial) -> Trial:
        """What there is to tell of one of Tune's trials."""
        last = trial.last_result or {}
        step, num_steps = last.get("step", 0), last.get("num_steps", 0)
        ended = "done" if step and step == num_steps else "stopped"
        state = STATES.get(trial.status, ended if trial.status == TuneTrial.TERMINATED else "waiting")
        return Trial(
            name=str(trial),
            state=state,
            chosen=tidy(self.asked.space, {name: trial.config[name] for name in self.asked.space}),
            step=step,
            num_steps=num_steps,
            metrics={name: value for name, value in last.items() if name.startswith("held_out_")},
            seconds=last.get("time_total_s", 0.0),
            error=why(Run(self.search.folder / str(trial))) if state == "failed" else None,
        )


def leave(run: Run) -> None:
    """Let the workers of a trial that is stopped save and leave, if it is: Tune ends its process next, and they with it."""
    run.stop_file.touch()
    began = time.monotonic()
    while time.monotonic() - began < LEAVE_SECONDS and (rows := run.rows()):
        last = rows[-1]
        ending = last.get("interrupted") or last["step"] == last["num_steps"]
        if ending and run.checkpoint_at(last["step"]).is_dir():
            return
        time.sleep(LOOK_SECONDS)


def why(run: Run) -> str:
    """Why a trial failed, in a line."""
    if not run.failure_file.is_file():
        return "its process died"
    failure = json.loads(run.failure_file.read_text())
    told = (failure["message"].splitlines() or [""])[0]
    return told if failure["kind"] in ("InputError", "TrainingError", "DivergedError") else f"{failure['kind']}: {told}"


@contextmanager
def settings() -> Iterator[None]:
    """For the time of a search, what Tune reads from the environment; another search of this process has its own."""
    ours = [name for name in SETTINGS if name not in os.environ]
    os.environ.update({name: SETTINGS[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM be what Ctrl-C is to Tune: it writes down how far the trials are, and ends. Gives whether one came.

    Tune puts the handler back that it has found when it hears Ctrl-C, so that a second one ends at once.
    """
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, hear)
    try:
        yield lambda: heard
        heard = signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
