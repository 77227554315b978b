"""What starting and ending cost under Ray: python bench/launch.py [--rounds 5]

Seconds from the shell to the first step's report, and from the last step's report to the prompt, with one worker: of
onehour on Ray, of onehour under torchrun, and of a script with Ray's TorchTrainer as its documentation writes it.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from watch import TORCHRUN, Timed, ratio, timed, watched

OPTIONS = ["--num-steps=20", "--log-every=1", "--evaluate-every=None"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    runs: dict[str, list[Timed]] = {"onehour on Ray": [], "onehour under torchrun": [], "a naive TorchTrainer": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(rounds):
            for kind, run in zip(runs, (on_ray, under_torchrun, naive), strict=True):
                runs[kind].append(run(folder, f"{kind.replace(' ', '-')}-{i}"))
    for what, name in (("first_step", "shell to first step"), ("after_last_step", "last step to prompt")):
        ray, torchrun, trainer = ([getattr(run, what) for run in timed_runs] for timed_runs in runs.values())
        print(f"{name}, onehour on Ray / under torchrun: {ratio(ray, torchrun)}; {medians(ray, torchrun)}")
        more = [[a - b for a, b in zip(each, torchrun, strict=True)] for each in (ray, trainer)]
        print(f"{name}, what Ray adds to torchrun, onehour / a plain TorchTrainer: {ratio(*more)}; {medians(*more)}")


def medians(ours: list[float], theirs: list[float]) -> str:
    """Both medians in seconds."""
    return f"{statistics.median(ours):.1f} s / {statistics.median(theirs):.1f} s"


def on_ray(folder: Path, name: str) -> Timed:
    """The toy on Ray."""
    return timed([], "toy", [*OPTIONS, "--workers=1"], folder, name, 2)


def under_torchrun(folder: Path, name: str) -> Timed:
    """The toy under torchrun."""
    return timed([*TORCHRUN, "1"], "toy", [*OPTIONS, "--workers=0"], folder, name, 2)


def naive(folder: Path, name: str) -> Timed:
    """The toy by a script that is as short as it can be."""
    script = Path(__file__).with_name("naive.py")
    return watched([str(script), str(folder), name, "20"], folder / name / "metrics.jsonl", 2)


if __name__ == "__main__":
    main()
