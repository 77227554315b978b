"""Step time under Ray beside the same call without it: python bench/parity.py [--rounds 5]

Interleaved pairs with equal threads: two Ray workers beside two processes of torchrun, one Ray worker beside a plain
process. The model is gpt's default; a step's time is the median over the run.
"""

import argparse
import tempfile
from pathlib import Path

from watch import TORCHRUN, Timed, ratio, timed

OPTIONS = [
    "--num-steps=400",
    "--log-every=10",
    "--evaluate-every=None",
    "--checkpoint-every=None",
    "--schedule=constant",
]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for workers, launcher, other in ((2, [*TORCHRUN, "2"], "torchrun"), (1, [], "a plain process")):
            on_ray: list[Timed] = []
            without: list[Timed] = []
            for i in range(rounds):
                on_ray.append(
                    timed(
                        [],
                        "gpt",
                        [*OPTIONS, f"--workers={workers}", "--cpus-per-worker=1"],
                        Path(folder),
                        f"r{workers}{i}",
                        1,
                    )
                )
                without.append(timed(launcher, "gpt", [*OPTIONS, "--workers=0"], Path(folder), f"o{workers}{i}", 1))
            times = [[1e3 * 8 / run.samples_per_second for run in runs] for runs in (on_ray, without)]
            print(f"step time, {workers} Ray worker{'s'[:workers - 1]} / {other}: {ratio(*times)}; "
                  f"{min(times[0]):.1f} ms / {min(times[1]):.1f} ms at best", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
