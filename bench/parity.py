"""Step time under Ray beside the same call without it: python bench/parity.py [--rounds 5]

Two Ray workers beside two processes of torchrun, one Ray worker beside a plain process, with equal threads. Both trainings
of a pair run at the same time and take turns of two seconds, in which the other one stands still with all its processes:
a machine that is slower for a minute is so for both. The model is gpt's default; a step's time is the median over turns.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from onehour.recipes.gpt import GPTRecipe
from onehour.training.run import Run
from watch import TORCHRUN, ratio

TURN_SECONDS = 2.0
TURNS = 15
OPTIONS = ["--num-steps=100000", "--log-every=10", "--evaluate-every=None", "--checkpoint-every=None"]


class Training:
    """`onehour train gpt` by `launcher` (arguments of Python), which has done its first steps and now stands still."""

    def __init__(self, launcher: list[str], options: list[str], folder: Path) -> None:
        line = [*launcher, "-m", "onehour", "train", "gpt", *OPTIONS, *options, f"--runs={folder}", "--name=gpt"]
        self.run = Run(folder / "gpt")
        said = folder.with_suffix(".txt")
        with said.open("w") as file:
            self.process = psutil.Popen(
                [sys.executable, *line],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        while len(self.run.reports()) < 3:
            if self.process.poll() is not None:
                raise SystemExit(said.read_text())
            time.sleep(0.05)
        self.signal(signal.SIGSTOP)

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to all processes of this training, Ray's too."""
        for process in (self.process, *self.process.children(recursive=True)):
            process.send_signal(which)

    def turn(self) -> float:
        """Go on for a turn; returns milliseconds of a step, over the reports, one of ten steps each, that are all of it."""
        before = len(self.run.reports())
        self.signal(signal.SIGCONT)
        time.sleep(TURN_SECONDS)
        self.signal(signal.SIGSTOP)
        speeds: list[float] = [row["samples_per_second"] for row in self.run.reports()[before + 1 :]]
        return 1e3 * GPTRecipe().defaults().global_batch_size / statistics.harmonic_mean(speeds)

    def end(self) -> None:
        """Ask it to stop, as Ctrl-C would, and wait."""
        self.signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


def pair(workers: int, launcher: list[str]) -> tuple[float, float]:
    """Milliseconds of a step on Ray and without it, of two trainings that take turns."""
    with tempfile.TemporaryDirectory() as folder:
        without = Training(launcher, ["--workers=0"], Path(folder, "without"))
        on_ray = Training([], [f"--workers={workers}", "--cpus-per-worker=1"], Path(folder, "ray"))
        ours, theirs = zip(*((on_ray.turn(), without.turn()) for _ in range(TURNS)), strict=True)
        on_ray.end()
        without.end()
    return statistics.median(ours), statistics.median(theirs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for workers, launcher, other in ((2, [*TORCHRUN, "2"], "torchrun"), (1, [], "a plain process")):
        ours, theirs = zip(*(pair(workers, launcher) for _ in range(rounds)), strict=True)
        print(f"step time, {workers} Ray worker{'s'[:workers - 1]} / {other}: {ratio(list(ours), list(theirs))}; "
              f"{statistics.median(ours):.1f} ms / {statistics.median(theirs):.1f} ms", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
