"""Each node of a cluster is examined before the work: what it lacks would show in the middle of it."""

import os
import platform
import time
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from onehour import __version__
from onehour.errors import InputError
from onehour.training.run import Run

NODE_SECONDS = 60
CLOCK_SECONDS = 30
PACKAGES = ("torch", "ray", "safetensors")


def check_nodes(run: Run) -> None:
    """Examine all nodes at once: packages and their versions, the run's folder, the clock.

    Raises:
        InputError: one of them would not do; says which, why and what to do.
    """
    marker = run.folder / f".marker-{uuid.uuid4().hex}"
    marker.write_text(marker.name)
    began = time.time()
    asked = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0)(examine).options(scheduling_strategy=here)
        asked[task.remote(str(marker))] = node["NodeManagerAddress"]
    try:
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
        for answer in done:
            try:
                trouble = what_is_wrong(ray.get(answer), versions(), began, run.folder)
            except RayError as error:
                trouble = f"{str(error).strip().splitlines()[-1]}; install onehour there, or start by `ray job submit`."
            if trouble:
                raise InputError(f"The node {asked[answer]} cannot take part: {trouble}")
        if late:
            raise InputError(
                f"The node {asked[late[0]]} has not answered for {NODE_SECONDS} s; see `ray status`, and take it out or wait."
            )
    finally:
        marker.unlink(missing_ok=True)


def examine(marker: str) -> dict[str, Any]:
    """What a node has: its versions, its clock, and whether it sees and may write the folder of `marker`."""
    path = Path(marker)
    return {
        "versions": versions(),
        "time": time.time(),
        "marker": path.is_file() and path.read_text() == path.name,
        "writable": os.access(path.parent, os.W_OK),
    }


def versions() -> dict[str, str]:
    """Python and the packages that must be the same everywhere."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2]), "onehour": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def what_is_wrong(found: dict[str, Any], ours: dict[str, str], began: float, folder: Path) -> str | None:
    """One sentence about what would go wrong on a node, or None."""
    for name, number in ours.items():
        if (there := found["versions"][name]) != number:
            return f"{name} is {there} there and {number} here; install the same versions on all nodes."
    if not found["marker"]:
        return f"it does not see {folder}; choose a folder that all nodes share by --runs."
    if not found["writable"]:
        return f"it must not write to {folder}; change its rights, or choose another folder by --runs."
    if not began - CLOCK_SECONDS < found["time"] < time.time() + CLOCK_SECONDS:
        return f"its clock is {found['time'] - began:+.0f} s off; set it right (chrony or ntpd)."
    return None
