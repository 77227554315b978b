"""The benchmarks, one after the other, and bench/README.md with what they measured.

    python bench/suite.py [--nanogpt FOLDER]         all of them
    python bench/suite.py launch.py growth.py        these alone: the page keeps the rows of the others

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
PAGE = HERE / "README.md"
SUITE = (
    "data.py", "parity.py", "launch.py", "checkpoint.py --depth 2 --rounds 4", "prepare.py", "search.py",
    "reproducible.py", "memory.py", "growth.py", "generate.py", "classify.py", "nanogpt.py", "chaos.py --faults 14",
)  # fmt: skip

Rows = dict[str, list[str]]  # the page's rows by benchmark


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="such as launch.py")
    parser.add_argument("--nanogpt", help="a copy of nanoGPT")
    options = parser.parse_args()
    scripts = [line.split()[0] for line in SUITE]
    if unknown := set(options.scripts) - set(scripts):
        parser.error(f"there is no {' or '.join(unknown)} here; there are {', '.join(scripts)}")
    rows = rows_of(PAGE.read_text() if PAGE.is_file() else "")
    for line in SUITE:
        script, *rest = line.split()
        if script not in (options.scripts or scripts):
            continue
        more = ["--nanogpt", options.nanogpt] if options.nanogpt and script == "nanogpt.py" else []
        print(f"python bench/{line}", flush=True)
        rows[line] = measured(line, [script, *rest, *more])
        PAGE.write_text(page(rows))  # at once, so that a later one that fails takes nothing away
    print(f"All of it is in {PAGE}.")


def measured(line: str, command: list[str]) -> list[str]:
    """The page's rows for what a benchmark has printed as "what: measured"; the rest is shown only."""
    script, *options = command
    process = subprocess.Popen([sys.executable, HERE / script, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    rows = []
    for said in process.stdout:
        print(f"  {said.rstrip()}", flush=True)
        what, colon, value = said.strip().partition(": ")
        if colon:
            rows.append(f"| `{line}` | {what} | {value} | {time.strftime('%Y-%m-%d')} |")
    if process.wait():
        raise SystemExit(f"python bench/{line} has failed; what it said stands above.")
    return rows


def rows_of(text: str) -> Rows:
    """The rows of a page that was written before, of the benchmarks that there are."""
    return {line: [row for row in text.splitlines() if row.startswith(f"| `{line}` |")] for line in SUITE}


def page(rows: Rows) -> str:
    """bench/README.md."""
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, {'a' if torch.cuda.is_available() else 'no'} GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    lines = [
        "# What was measured\n",
        f"`make bench` writes this page: {machine}, {versions}.",
        "Each ratio is the median of pairs that were measured in turn, with the smallest and the largest of them.",
        "What was tried, and what failed, is in [history.md](history.md).\n",
        "| bench/ | what | measured | on |",
        "|---|---|---|---|",
        *(row for line in SUITE for row in rows[line]),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
