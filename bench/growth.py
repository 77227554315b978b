"""How the parts of a training grow with the number of workers: python bench/growth.py [--most 64]

The toy recipe by 1, 2, 4, ... workers of Ray on two raylets of this machine, one sample each. All share its cores, so what
counts is the CPU time, and whose: what the driver, Ray's controller, its GCS and the worker of rank 0 spend is spent in
one place on any cluster; what all workers spend, the machines of a cluster spend at the same time. "Watching" is what
goes on while the workers rest. A report, an evaluation or a checkpoint is what a step with one takes beyond a step
without. Memory is PSS, in which a page that n processes share counts as 1 / n for each.

To each part a + b log2 N and a + b N are fitted by least squares. The better one tells what 4,096 workers would take;
where that is the line, and it rises by a fifth or more, the part is named. What is measured "on these cores" is not
fitted. A start-up takes the longer, the fewer the cores, and processes of Ray spend 14 ms a second while they wait, so
that start-ups of many workers are somewhat overstated. Where the next number of workers would leave less than 4 GB of
memory, as many are measured as do; and the last number is given up if other programs take the memory meanwhile.
"""

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onehour.cluster.connect import stay_on_loopback  # imports ray, which brings psutil

import psutil  # isort: skip

RAYLETS, FAR = 2, 4096
SPARE_MB, LEAST_MB = 4000, 2000
REST_SECONDS = 5
KINDS = {"gcs_server": "GCS", "ray::TrainController": "controller", "ray::RayTrainWorker": "worker"}
CENTRAL = ("driver", "controller", "GCS")
A_WORKER = "memory, a worker (MB)"

Parts = dict[str, float]
Processes = dict[int, tuple[str, float]]
"""By number: the kind of a process, and its CPU seconds so far."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=64, help="workers")
    with tempfile.TemporaryDirectory() as folder:
        measured = measure_sizes(parser.parse_args().most, Path(folder))
    named = []
    for part in next(iter(measured.values())):
        values = {workers: parts[part] for workers, parts in measured.items()}
        fit = Fit.of(values)
        on_these_cores = part.endswith(("(s)", "(ms)"))
        named += [part] if fit.linear and fit.rises and not on_these_cores else []
        there = " / ".join(f"{value:.3g}" for value in values.values())
        print(f"{part}, {' / '.join(map(str, values))} workers: {there}{'' if on_these_cores else f'; {fit}'}")
    print(f"what grows faster than log N: {'; '.join(named) or 'nothing'}")


def measure_sizes(most: int, folder: Path) -> dict[int, Parts]:
    """The parts at 1, 2, 4, ... workers, up to `most`, or to as many as there is memory for."""
    from ray.cluster_utils import Cluster

    stay_on_loopback()
    node: dict[str, Any] = {"num_cpus": -(-most // RAYLETS), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    measured: dict[int, Parts] = {}
    try:
        for _ in range(RAYLETS - 1):
            cluster.add_node(num_cpus=node["num_cpus"])
        for workers in (2**i for i in range(most.bit_length())):
            room = room_after(measured) if measured else most
            if workers > room:
                print(f"There is no memory for {workers} workers, but for {room}.", flush=True)
            number = min(workers, room)
            if number > max(measured, default=0):
                measured[number] = measure(number, cluster.address, folder)
                print(number, json.dumps(measured[number]), file=sys.stderr, flush=True)
            if workers > room:
                break
    except MemoryError:
        print("Other programs have taken the memory meanwhile; these are not measured.", flush=True)
    finally:
        cluster.shutdown()
    return measured


def room_after(measured: dict[int, Parts]) -> int:
    """How many workers there is memory for, if each takes what it took the last time."""
    last = measured[max(measured)]
    beside = sum(last[f"memory, {kind} (MB)"] for kind in CENTRAL)
    room = (psutil.virtual_memory().available / 1e6 - SPARE_MB - beside) / last[A_WORKER]
    return int(room / RAYLETS) * RAYLETS


def measure(workers: int, address: str, folder: Path) -> Parts:
    """Start a training of so many workers, and watch the processes from outside."""
    run, script = folder / f"{workers}-workers", Path(__file__).with_name("growing.py")
    before, began = processes(0), time.perf_counter()
    driver = subprocess.Popen([sys.executable, script, str(workers), address, str(folder)], stdout=subprocess.DEVNULL)
    try:
        wait_for(run / "metrics.jsonl", driver)
        wall, start = time.perf_counter() - began, spent(before, processes(driver.pid))
        wait_for(run / "growth.json", driver)
        memory, before = pss(driver.pid), processes(driver.pid)
        time.sleep(REST_SECONDS)
        watching = spent(before, processes(driver.pid))
        (run / "seen").touch()
        if driver.wait(120):
            raise SystemExit(f"The training by {workers} workers has failed.")
    finally:
        driver.kill()
    inside: Parts = json.loads((run / "growth.json").read_text())
    return (
        {"start-up until the first step, all of it on these cores (s)": wall}
        | {f"start-up, {kind} (CPU s)": start[kind] for kind in CENTRAL}
        | {"start-up, a worker (CPU s)": start["worker"] / workers}
        | {f"watching, {kind} (CPU ms per s)": 1e3 * watching[kind] / REST_SECONDS for kind in CENTRAL}
        | {"watching, a worker (CPU ms per s)": 1e3 * watching["worker"] / REST_SECONDS / workers}
        | inside
        | {f"memory, {kind} (MB)": memory[kind] / 1e6 for kind in CENTRAL}
        | {A_WORKER: memory["worker"] / 1e6 / workers}
    )


def wait_for(file: Path, driver: subprocess.Popen[bytes]) -> None:
    """Wait until there is something in the file; raises MemoryError where this machine has hardly any left."""
    while not (file.is_file() and file.stat().st_size):
        if driver.poll() is not None:
            raise SystemExit(f"The training has ended before it wrote {file}.")
        if psutil.virtual_memory().available < LEAST_MB * 1e6:
            raise MemoryError
        time.sleep(0.02)


def processes(driver: int) -> Processes:
    """The processes that this one has started, and those that they have; `driver` is the number of the training's."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):  # it has ended meanwhile
            name, times = process.cmdline()[0], process.cpu_times()
            kind = next((kind for mark, kind in KINDS.items() if mark in name), "other")
            found[process.pid] = ("driver" if process.pid == driver else kind, times.user + times.system)
    return found


def spent(before: Processes, after: Processes) -> dict[str, float]:
    """CPU seconds in the meantime by kind of process."""
    total: dict[str, float] = Counter()  # type: ignore[assignment]
    for number, (kind, seconds) in after.items():
        total[kind] += seconds - before.get(number, ("", 0.0))[1]
    return total


def pss(driver: int) -> Counter[str]:
    """Proportional set size in bytes by kind of process."""
    total = Counter[str]()
    for number, (kind, _) in processes(driver).items():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            rollup = Path(f"/proc/{number}/smaps_rollup").read_text()
            total[kind] += 1024 * int(rollup.partition("\nPss:")[2].split()[0])
    return total


@dataclass(frozen=True)
class Fit:
    """What a part is at N workers: a + b N if `linear`, else a + b log2 N."""

    a: float
    b: float
    linear: bool
    rises: bool
    """Whether it is higher by a fifth or more at the most workers measured than at one."""

    @classmethod
    def of(cls, values: dict[int, float]) -> "Fit":
        """The better of the two by least squares."""
        workers, measured = np.array(list(values), dtype=float), np.array(list(values.values()))
        found = []
        for linear, x in ((False, np.log2(workers)), (True, workers)):
            (b, a), squares, *_ = np.polyfit(x, measured, 1, full=True)
            rises = bool(b * (x[-1] - x[0]) >= 0.2 * abs(a + b * x[0]))
            found.append((squares.sum(), cls(float(a), float(b), linear, rises)))
        return min(found, key=lambda each: each[0])[1]

    def __str__(self) -> str:
        if not self.rises:
            return "does not grow"
        there = self.a + self.b * (FAR if self.linear else math.log2(FAR))
        return f"{self.a:.3g} + {self.b:.2g} {'N' if self.linear else 'log2 N'}, by the fit {there:,.4g} at 4,096"


if __name__ == "__main__":
    main()
