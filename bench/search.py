"""Searching: python bench/search.py [--trials 20] [--rounds 2]

What ASHA saves: the same trials of digits under ASHA and in full; the accuracy of the best of each (by its loss), and the
epochs trained.
What Tune costs: trials per minute of the full search, from the shell to the prompt and without the start and the end of
Ray, beside a plain loop over the same trials in one process on the same cores.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from onehour.training.loop import train
from onehour.training.run import Run
from onehour.training.trials import Search
from watch import ratio

SEARCH = [sys.executable, "-m", "onehour", "search", "digits"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    whole: list[float] = []
    between: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(options.rounds):
            began = time.perf_counter()
            full = searched(Path(folder), f"full-{i}", options.trials, "--scheduler=none")
            ended = time.perf_counter()
            for speeds, seconds in (
                (whole, ended - began),
                (between, seconds_of(full)),
                (plain, plain_seconds(full)),
            ):
                speeds.append(60 * options.trials / seconds)
        compare_asha(searched(Path(folder), "asha", options.trials, "--scheduler=asha"), full)
    print(
        f"trials per minute, a search / a plain loop: {ratio(whole, plain)}; {max(whole):.1f} / {max(plain):.1f} at best"
    )
    print(f"the same without start and end: {ratio(between, plain)}; {max(between):.1f} / {max(plain):.1f} at best")


def searched(folder: Path, name: str, trials: int, *options: str) -> Search:
    """A search that has ended."""
    line = [*SEARCH, f"--runs={folder}", f"--name={name}", f"--trials={trials}", *options]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return Search(folder / name)


def compare_asha(asha: Search, full: Search) -> None:
    """Print accuracies and epochs."""
    accuracies = [search.best().metrics["held_out_accuracy"] for search in (asha, full)]
    steps = [sum(trial.step for trial in search.results()) for search in (asha, full)]
    print(f"accuracy of the best, ASHA / in full: {accuracies[0]:.2%} / {accuracies[1]:.2%}")
    print(f"epochs of all trials, ASHA / in full: {steps[0] / steps[1]:.3f} ({steps[0] / 24:,.0f} / {steps[1] / 24:,.0f})",
          flush=True)  # fmt: skip


def seconds_of(search: Search) -> float:
    """From the beginning of the first trial to the end of the last, by the times of their files."""
    runs = [search.folder / trial.name for trial in search.results()]
    return max((run / "metrics.jsonl").stat().st_mtime for run in runs) - min(
        (run / "config.json").stat().st_mtime for run in runs
    )


def plain_seconds(search: Search) -> float:
    """What a loop over the same trials takes in this process."""
    torch.set_num_threads(1)  # for these small trials faster than two: 30 s, and 59 s
    runs = [Run(search.folder / trial.name) for trial in search.results()]
    began = time.perf_counter()
    for run in runs:
        for _ in train(run.recipe(), run.train_config()):
            pass
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
