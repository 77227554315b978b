"""A search in the terminal and as pictures: the trials as they run, what came out, what mattered."""

import math
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from onehour.show.curve import HELD_OUT, TRAINING
from onehour.show.table import align, words
from onehour.show.terminal import count, duration
from onehour.space import Domain
from onehour.training.trials import Asked, Search, Trial

NUM_SHOWN = 10
REDRAW_SECONDS = 0.2
FEWEST_TRIALS = 8  # of fewer, nobody can say what mattered
GREY = "#b5b5b5"


def plan_text(asked: Asked, folder: Path, at_once: int, num_steps: int) -> str:
    """What a search is about to do, as aligned lines."""
    options, num_trials = asked.options, asked.num_trials()
    goal = f"{'the highest' if options.maximize else 'the lowest'} {options.metric}"
    each = f"{count(options.workers, 'worker')}{' with a GPU' if options.gpu else ''}"
    lines = {
        "space": "\n           ".join(f"{name} = {domain}" for name, domain in asked.space.items()),
        "trials": f"{num_trials}, {options.searcher}; {min(at_once, num_trials)} at once, {each} each; {num_steps:,} steps, "
        f"evaluated every {asked.config.evaluate_every:,}",
        "goal": f"{goal}; scheduler {options.scheduler}" + (f"; {options.time} in all" if options.time else ""),
        "search": str(folder),
    }
    return "\n".join(f"{name:<11}{text}" for name, text in lines.items())


class Live:
    """A table that is drawn over and over: the trials that run, the best that have ended, a line that sums up.

    Where the output is no terminal there is no table, but a line for each trial that has ended.
    """

    def __init__(self, search: Search, asked: Asked) -> None:
        self.search, self.asked = search, asked
        self.tty = sys.stdout.isatty()
        self.began = self.drawn = time.monotonic()
        self.height = 0
        self.trials: list[Trial] = []
        self.told = {trial.name for trial in search.results() if trial.ended}

    def show(self, trials: list[Trial]) -> None:
        """Show how far the trials are; results.parquet follows when one has ended."""
        self.trials = trials
        ended = [trial for trial in trials if trial.ended and trial.name not in self.told]
        if ended:
            self.search.write_results(trials)
            self.told |= {trial.name for trial in ended}
        if self.tty and (ended or time.monotonic() - self.drawn > REDRAW_SECONDS):
            self.draw()
        elif not self.tty:
            for trial in ended:
                print(line_of(trial, self.asked), flush=True)

    def draw(self) -> None:
        """Draw the table in place of the last one."""
        self.drawn = time.monotonic()
        columns, lines = shutil.get_terminal_size()
        text = live_text(self.trials, self.asked, time.monotonic() - self.began, lines - 2)
        cut = [line[: columns - 1] for line in text.splitlines()]  # a line that wraps could not be drawn over
        print(self.back() + "\n".join(cut), flush=True)
        self.height = len(cut)

    def back(self) -> str:
        """What takes the cursor to where the table begins, and clears what is below."""
        return f"\033[{self.height}F\033[J" if self.height else ""

    def end(self) -> None:
        """Take the table away: what came out is shown next. results.parquet has every trial."""
        self.search.write_results(self.trials)
        print(self.back(), end="", flush=True)


def live_text(trials: Sequence[Trial], asked: Asked, seconds: float, num_lines: int) -> str:
    """The table of a search that runs, in so many lines: first who runs, then the best of those that have ended."""
    running = [trial for trial in trials if trial.state == "running"]
    ended = [trial for trial in trials if trial.ended]
    best = asked.ranked(ended)
    failed = [trial for trial in ended if trial.state == "failed"]
    metric = asked.options.metric
    summary = f"{len(ended)} of {count(asked.num_trials(), 'trial')} ended"
    summary += f" ({len(failed)} failed)" if failed else ""
    summary += f", {len(running)} running, {duration(seconds)}"
    if ranked := asked.ranked(trials):
        summary += f"; the best so far: {ranked[0].name}, {words(metric)} {ranked[0].metrics[metric]:.4f}"
    shown = [*running, *best, *(trial for trial in failed if trial not in best)][: max(1, num_lines - 2)]
    return f"{table_text(shown, asked)}\n{summary}"


def table_text(trials: Sequence[Trial], asked: Asked) -> str:
    """Trials as a table: name, what was chosen, how far, the metric, state."""
    names = list(asked.space)
    header = ["trial", *names, "step", f"held-out {words(asked.options.metric)}", "state"]
    return align([header, *([*cells(trial, asked), trial.state] for trial in trials)])


def cells(trial: Trial, asked: Asked) -> list[str]:
    """A trial's name, what was chosen, how far it is and its metric."""
    value = trial.metrics.get(asked.options.metric)
    far = f"{trial.step:,}/{trial.num_steps:,}" if trial.step else ""
    chosen = (value_text(trial.chosen[name]) for name in asked.space)
    return [trial.name, *chosen, far, "" if value is None else f"{value:.4f}"]


def value_text(value: Any) -> str:
    """A hyperparameter in a few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def line_of(trial: Trial, asked: Asked) -> str:
    """A trial that has ended, as a line."""
    value = trial.metrics.get(asked.options.metric)
    led = "" if value is None else f"  held-out {words(asked.options.metric)} {value:.4f}"
    chosen = ", ".join(f"{name} {value_text(value)}" for name, value in trial.chosen.items())
    far = f" at step {trial.step:,}/{trial.num_steps:,}" if trial.step else ""
    return f"{trial.name:<10} {trial.state}{far}{led}  {chosen}{f'  {trial.error}' if trial.error else ''}"


def results_text(trials: Sequence[Trial], asked: Asked) -> str:
    """The best trials as a table; below it how many did what, and why those that failed did."""
    ranked = asked.ranked(trials)
    states = (f"{sum(trial.state == state for trial in trials)} {state}" for state in ("done", "stopped", "failed"))
    steps = sum(trial.step for trial in trials)
    lines = [table_text(ranked[:NUM_SHOWN], asked)] if ranked else []
    lines.append(f"{count(len(trials), 'trial')}: {', '.join(states)}; {count(steps, 'step')} in all")
    return "\n".join([*lines, *(f"{trial.name} failed: {trial.error}" for trial in trials if trial.error)])


def importance(ranked: Sequence[Trial], asked: Asked) -> dict[str, float]:
    """How much of the differences between trials each hyperparameter explains, from 0 to 1, the most first.

    Optuna's fANOVA (Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html) over the trials' ranks: trials
    that were stopped early have other losses than those at their end, but they are worse. Empty for a few trials.
    """
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len(ranked) < FEWEST_TRIALS:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    distributions = {name: to_optuna(domain) for name, domain in asked.space.items()}
    for rank, trial in enumerate(ranked):
        study.add_trial(optuna.trial.create_trial(params=trial.chosen, distributions=distributions, value=float(rank)))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def to_optuna(domain: Domain) -> Any:
    """A domain as Optuna says it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if domain.kind == "choice":
        return CategoricalDistribution(domain.values)
    if domain.kind == "int":
        return IntDistribution(domain.values[0], domain.values[1], step=domain.step)
    return FloatDistribution(domain.values[0], domain.values[1], log=domain.kind == "log")


def importance_text(found: dict[str, float]) -> str:
    """What mattered, as lines with bars."""
    if not found:
        return f"mattered   too few trials to say which hyperparameter did: {FEWEST_TRIALS} have to be evaluated"
    width = max(map(len, found))
    bars = [f"{name:<{width}}  {share:4.0%}  {'█' * round(20 * share)}" for name, share in found.items()]
    return "\n".join(f"{'' if i else 'mattered':<11}{bar}".rstrip() for i, bar in enumerate(bars))


def save_parallel(ranked: Sequence[Trial], asked: Asked, path: Path) -> Path:
    """Draw each trial as a line through what was chosen and what it led to; the best is orange, the worst pale."""
    from matplotlib.figure import Figure

    metric = asked.options.metric
    domains = asked.space | {words(metric): domain_of([trial.metrics[metric] for trial in ranked])}
    figure = Figure(figsize=(2 * len(domains) + 1, 4.5), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.1, len(domains) - 0.9), ylim=(-0.05, 1.05), yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(domains)), list(domains))
    for x, domain in enumerate(domains.values()):
        axes.axvline(x, color="black", linewidth=0.8)
        for value in marks(domain):
            axes.annotate(value_text(value), (x, place_of(value, domain)), (4, 0), textcoords="offset points", fontsize=8,
                          va="center", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5})  # fmt: skip
    for rank, trial in reversed(list(enumerate(ranked))):
        values = [*trial.chosen.values(), trial.metrics[metric]]
        ys = [place_of(value, domain) for value, domain in zip(values, domains.values(), strict=True)]
        good = 1 - rank / len(ranked)
        axes.plot(ys, color=HELD_OUT if rank == 0 else TRAINING, linewidth=2.5 if rank == 0 else 1.2,
                  alpha=0.15 + 0.85 * good**2)  # fmt: skip
    axes.set_title(f"{count(len(ranked), 'trial')}; orange: {ranked[0].name}, the best", loc="left", fontweight="bold")
    figure.savefig(path, dpi=120)
    return path


def domain_of(values: Sequence[float]) -> Domain:
    """The range of a metric; a logarithmic one if it spans a factor of ten."""
    low, high = min(values), max(values)
    return Domain("log" if 0 < 10 * low < high else "uniform", (low, high if high > low else low + 1))


def place_of(value: Any, domain: Domain) -> float:
    """Where a value is on its axis, from 0 to 1; choices are evenly spaced."""
    if domain.kind == "choice":
        return domain.values.index(value) / max(1, len(domain.values) - 1)
    change = math.log if domain.kind == "log" else float
    low, high = map(change, domain.values)
    return (change(value) - low) / (high - low)


def marks(domain: Domain) -> list[Any]:
    """The values that are written at an axis."""
    if domain.kind == "choice":
        return list(domain.values)
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = domain.values
    between = (LogLocator() if domain.kind == "log" else MaxNLocator(5)).tick_values(low, high)
    inside = [float(tick) for tick in between if 0.04 < place_of(tick, domain) < 0.96]
    return [low, *inside, high]


def save_best_so_far(trials: Sequence[Trial], asked: Asked, path: Path) -> Path:
    """Draw each trial's last evaluation after so many steps of all trials together, and how the best grew better."""
    from matplotlib.figure import Figure

    metric = asked.options.metric
    evaluated = [trial for trial in trials if trial in asked.ranked(trials)]
    spent = list(accumulate(trial.step for trial in evaluated))
    values = [trial.metrics[metric] for trial in evaluated]
    best = list(accumulate(values, max if asked.options.maximize else min))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer steps, all trials together", ylabel=f"held-out {words(metric)}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    for state, color, marker in (("done", TRAINING, "o"), ("stopped", GREY, "x"), ("failed", HELD_OUT, "x")):
        there = [(x, y) for x, y, trial in zip(spent, values, evaluated, strict=True) if trial.state == state]
        if there:
            axes.scatter(*zip(*there, strict=True), color=color, marker=marker, label=state, zorder=3)
    axes.step(spent, best, where="post", color=HELD_OUT, label="the best so far")
    if domain_of(values).kind == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)
    return path
