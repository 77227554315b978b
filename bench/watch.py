"""Starting the command line the way a user does, and reading what it kept. Shared by the benchmarks."""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@dataclass(frozen=True)
class Timed:
    """One run of the command line, watched from outside."""

    first_step: float
    """Seconds from the shell to the first step's report."""
    after_last_step: float
    """Seconds from the last step's report to the prompt."""
    samples_per_second: float
    """Median over the reports, the first fifth left out."""


def timed(launcher: list[str], recipe: str, options: list[str], folder: Path, name: str, threads: int) -> Timed:
    """Run `onehour train` by `launcher` (arguments of Python) and watch its metrics.jsonl."""
    line = [*launcher, "-m", "onehour", "train", recipe, *options, f"--runs={folder}", f"--name={name}"]
    return watched(line, folder / name / "metrics.jsonl", threads)


def watched(line: list[str], metrics: Path, threads: int) -> Timed:
    """Run Python with these arguments and watch the file to which it writes a row for each report."""
    command = [sys.executable, *line]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    first = last = 0.0
    size = 0
    while process.poll() is None:
        now = metrics.stat().st_size if metrics.exists() else 0
        if now > size:
            size, last = now, time.perf_counter()
            first = first or last
        time.sleep(0.01)
    ended = time.perf_counter()
    if process.returncode:
        raise SystemExit(process.stderr.read().decode() if process.stderr else "the run failed")
    speeds = [json.loads(line)["samples_per_second"] for line in metrics.read_text().splitlines()]
    return Timed(first - began, ended - last, statistics.median(speeds[len(speeds) // 5 :]))


def ratio(ours: list[float], theirs: list[float]) -> str:
    """The median of the ratios pair by pair, and their range."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} pairs)"
