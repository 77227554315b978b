"""Every benchmark, one after the other, and bench/README.md with what they measured: python bench/suite.py [--nanogpt FOLDER]

FOLDER is a copy of nanoGPT, as nanogpt.py wants it; without it, that row says so.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
SUITE = (
    "data.py", "parity.py", "launch.py", "checkpoint.py --depth 2 --rounds 4", "prepare.py", "search.py",
    "reproducible.py", "memory.py", "growth.py", "generate.py", "classify.py", "nanogpt.py", "chaos.py --faults 14",
)  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", help="a copy of nanoGPT")
    nanogpt = parser.parse_args().nanogpt
    began, rows = time.monotonic(), []
    for line in SUITE:
        line += f" --nanogpt {nanogpt}" if nanogpt and line.startswith("nanogpt") else ""
        print(f"python bench/{line}", flush=True)
        rows += [(line, *found) for found in measured(line)]
    (HERE / "README.md").write_text(page(rows, time.monotonic() - began))
    print(f"All of it is in {HERE / 'README.md'}.")


def measured(line: str) -> list[tuple[str, str]]:
    """What a benchmark has printed as "what: measured"; the rest is shown only."""
    script, *options = line.split()
    process = subprocess.Popen([sys.executable, HERE / script, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    rows = []
    for said in process.stdout:
        print(f"  {said.rstrip()}", flush=True)
        what, colon, value = said.strip().partition(": ")
        if colon:
            rows.append((what, value))
    if process.wait():
        raise SystemExit(f"python bench/{line} has failed; what it said stands above.")
    return rows


def page(rows: list[tuple[str, str, str]], seconds: float) -> str:
    """bench/README.md."""
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, {'a' if torch.cuda.is_available() else 'no'} GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    lines = [
        "# What was measured\n",
        f"`make bench` wrote this page on {time.strftime('%d %B %Y')}: {machine}, {versions}, {seconds / 60:.0f} minutes.",
        "Each ratio is the median of pairs that were measured in turn, with the smallest and the largest of them.",
        "What was tried, and what failed, is in [history.md](history.md).\n",
        "| bench/ | what | measured |",
        "|---|---|---|",
        *(f"| `{line}` | {what} | {value} |" for line, what, value in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
