"""What starting and ending cost under Ray, beside torchrun: python bench/launch.py [--rounds 5]

Seconds from the shell to the first step's report, and from the last step's report to the prompt, with one worker.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from watch import TORCHRUN, Timed, ratio, timed

OPTIONS = ["--num-steps=20", "--log-every=1", "--evaluate-every=None"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    on_ray: list[Timed] = []
    on_torchrun: list[Timed] = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds):
            on_ray.append(timed([], "toy", [*OPTIONS, "--workers=1"], Path(folder), f"ray-{i}", 2))
            on_torchrun.append(
                timed([*TORCHRUN, "1"], "toy", [*OPTIONS, "--workers=0"], Path(folder), f"torchrun-{i}", 2)
            )
    for what in ("first_step", "after_last_step"):
        ours, theirs = [getattr(run, what) for run in on_ray], [getattr(run, what) for run in on_torchrun]
        medians = f"{statistics.median(ours):.1f} s / {statistics.median(theirs):.1f} s"
        print(f"{what.replace('_', ' ')}, Ray / torchrun: {ratio(ours, theirs)}; {medians}")


if __name__ == "__main__":
    main()
