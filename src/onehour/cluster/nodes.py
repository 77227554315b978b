"""Each node of a cluster is examined before the work: what it lacks would show in the middle of it."""

import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray._private import state
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from onehour import __version__
from onehour.errors import InputError
from onehour.training.run import Run

NODE_SECONDS = 60
CLOCK_SECONDS = 30
PACKAGES = ("torch", "ray", "safetensors")
# How the head asks whether a node is still there, and the defaults of Ray. Nobody but the head itself knows its settings.
HEALTH_CHECK = {"health_check_timeout_ms": 10_000, "health_check_period_ms": 3_000, "health_check_failure_threshold": 5}


def check_nodes(run: Run, room: float = 0) -> list[str]:
    """Examine all nodes at once: packages and their versions, the run's folder, the clock, the cores.

    `room` is how many bytes the run's folder will have to hold. Returns sentences that are worth telling: nodes that
    promise more cores than they have, and after how long a node that falls silent is given up.

    Raises:
        InputError: some of them would not do; names each of them, and says why and what to do.
    """
    marker = run.folder / f".marker-{uuid.uuid4().hex}"
    marker.write_text(marker.name)
    began, ours = time.time(), versions()
    try:
        answers = ask_nodes(marker)
    finally:
        marker.unlink(missing_ok=True)
    troubles = [(node, trouble_of(found, ours, began, run.folder, room)) for node, found in answers]
    if any(trouble for _, trouble in troubles):
        raise InputError(" ".join(by_node(troubles, "cannot take part: ")))
    told = by_node([(node, too_many_cores(node, found)) for node, found in answers])
    if len(answers) > 1:
        silence = silence_seconds(answers)
        told.append(f"A node that falls silent is given up after {silence:g} s (RAY_health_check_... of the head).")
    return told


def ask_nodes(marker: Path) -> list[tuple[dict[str, Any], dict[str, Any] | RayError | None]]:
    """Each node that is alive, and what it says about itself, or why it could not, or None if it has not answered."""
    asked = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0)(examine).options(scheduling_strategy=here)
        asked[task.remote(str(marker))] = node
    done = set(ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)[0])
    return [(node, answer_to(task) if task in done else None) for task, node in asked.items()]


def answer_to(task: Any) -> dict[str, Any] | RayError:
    """What a task returned, or why it could not run."""
    try:
        return ray.get(task)  # type: ignore[no-any-return]
    except RayError as error:
        return error


def examine(marker: str) -> dict[str, Any]:
    """What a node has: its versions, its clock, its cores, and whether it sees and may write the folder of `marker`."""
    path = Path(marker)
    seen = path.is_file() and path.read_text() == path.name
    return {
        "versions": versions(),
        "time": time.time(),
        "marker": seen,
        "writable": os.access(path.parent, os.W_OK),
        "free": shutil.disk_usage(path.parent).free if seen else 0,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "health_check": {name: int(os.environ.get(f"RAY_{name}", number)) for name, number in HEALTH_CHECK.items()},
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


def trouble_of(
    found: dict[str, Any] | RayError | None, ours: dict[str, str], began: float, folder: Path, room: float
) -> str | None:
    """One sentence about what would go wrong on a node, or None."""
    if found is None:
        return f"no answer came in {NODE_SECONDS} s; see `ray status`, and take the node out or wait."
    if isinstance(found, RayError):
        return f"{str(found).strip().splitlines()[-1]}; install onehour there, or start by `ray job submit`."
    return what_is_wrong(found, ours, began, folder, room)


def what_is_wrong(
    found: dict[str, Any], ours: dict[str, str], began: float, folder: Path, room: float = 0
) -> str | None:
    """One sentence about what would go wrong on a node that has answered, or None."""
    for name, number in ours.items():
        if (there := found["versions"][name]) != number:
            return f"{name} is {there} there and {number} here; install the same versions on all nodes."
    if not found["marker"]:
        return f"{folder} is not seen there; choose a folder that all nodes share by --runs."
    if not found["writable"]:
        return f"{folder} cannot be written there; change its rights, or choose another folder by --runs."
    if found["free"] < room:
        return (
            f"{folder} has {found['free'] / 1e6:,.0f} MB free there, and the checkpoints need {room / 1e6:,.0f} MB; "
            "make room, use --keep 1, or choose another folder by --runs."
        )
    if not began - CLOCK_SECONDS < found["time"] < time.time() + CLOCK_SECONDS:
        return f"the clock there is {found['time'] - began:+.0f} s off; set it right (chrony or ntpd)."
    return None


def too_many_cores(node: dict[str, Any], found: Any) -> str | None:
    """A sentence about a node whose Ray was told of more cores than there are, or None."""
    told, cores = node["Resources"].get("CPU", 0), found["cores"]
    if told <= cores:
        return None
    return f"told Ray of {told:g} CPU cores and has {cores} (ray start --num-cpus): workers will wait for each other there."


def by_node(told: Iterable[tuple[dict[str, Any], str | None]], verb: str = "") -> list[str]:
    """A sentence for all nodes of which the same is told: The nodes A and B `verb`..."""
    nodes_of: dict[str, set[str]] = {}
    for node, sentence in told:
        if sentence:
            nodes_of.setdefault(sentence, set()).add(node["NodeManagerAddress"])
    return [
        f"The node{'s' * (len(nodes) > 1)} {' and '.join(sorted(nodes))} {verb}{sentence}"
        for sentence, nodes in nodes_of.items()
    ]


def silence_seconds(answers: list[tuple[dict[str, Any], Any]]) -> float:
    """After how many seconds without an answer the head gives a node up."""
    (head,) = (found for node, found in answers if "node:__internal_head__" in node["Resources"])
    asks = head["health_check"] | {k: v for k, v in state.state.get_system_config().items() if k in HEALTH_CHECK}
    wait, pause, times = (asks[name] for name in HEALTH_CHECK)
    return float((wait + pause) * times / 1000)
