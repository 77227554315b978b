"""Each node of a cluster is examined before the work: what it lacks would show in the middle of it."""

import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from pyarrow import ArrowException
from pyarrow.fs import FileType
from ray._private import state
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from onehour import __version__
from onehour.errors import InputError
from onehour.training.run import Run
from onehour.training.storage import find_storage, open_storage, reason

NODE_SECONDS = 60
CLOCK_SECONDS = 30
PACKAGES = ("torch", "ray", "safetensors")
# How the head asks whether a node is still there, and the defaults of Ray. Nobody but the head itself knows its settings.
HEALTH_CHECK = {"health_check_timeout_ms": 10_000, "health_check_period_ms": 3_000, "health_check_failure_threshold": 5}


def check_nodes(run: Run, room: float = 0, storage: str | None = None) -> tuple[list[str], set[str]]:
    """Examine all nodes at once: packages and their versions, the run's folder and its storage, the clock, the cores.

    `room` is how many bytes the run's folder will have to hold. Returns sentences that are worth telling (nodes that
    promise more cores than they have, and after how long a node that falls silent is given up), and the ids of the nodes
    that do not see the run's folder, which will do where there is a storage.

    Raises:
        InputError: some of them would not do; names each of them, and says why and what to do.
    """
    began, ours = time.time(), versions()
    with marked(run.folder, storage) as marker:
        answers = on_every_node(examine, str(marker), storage)
    troubles = [(node, trouble_of(found, ours, began, run.folder, room, storage)) for node, found in answers]
    if any(trouble for _, trouble in troubles):
        raise InputError(" ".join(by_node(troubles, "cannot take part: ")))
    told = by_node([(node, too_many_cores(node, found)) for node, found in answers])
    if len(answers) > 1:
        silence = silence_seconds(answers)
        told.append(f"A node that falls silent is given up after {silence:g} s (RAY_health_check_... of the head).")
    return told, {node["NodeID"] for node, found in answers if not found["marker"]}  # type: ignore[index,call-overload]


@contextmanager
def marked(folder: Path, storage: str | None) -> Iterator[Path]:
    """For the time of the block, a file of a new name in the folder and in the storage; gives its path in the folder."""
    marker = folder / f".marker-{uuid.uuid4().hex}"
    places = [find_storage(str(folder)), *([open_storage(storage)] if storage else [])]
    for place in places:
        with place.open_output_stream(marker.name) as file:
            file.write(marker.name.encode())
    try:
        yield marker
    finally:
        for place in places:
            place.delete_file(marker.name)


def node_ids() -> set[str]:
    """The ids of the nodes that are alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def on_every_node(
    function: Callable[..., dict[str, Any]], *arguments: Any
) -> list[tuple[dict[str, Any], dict[str, Any] | RayError | None]]:
    """Each node that is alive, and what `function` returns there, or why it could not, or None if it has not answered."""
    asked = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=here)
        asked[task.remote(*arguments)] = node
    done = set(ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)[0])
    return [(node, answer_to(task) if task in done else None) for task, node in asked.items()]


def answer_to(task: Any) -> dict[str, Any] | RayError:
    """What a task returned, or why it could not run."""
    try:
        return ray.get(task)  # type: ignore[no-any-return]
    except RayError as error:
        return error


def examine(marker: str, storage: str | None = None) -> dict[str, Any]:
    """What a node has: its versions, its clock, its cores, and whether it sees and may write the folder of `marker`.

    Where it does not see that folder, it would be made, and come from the storage.
    """
    path = Path(marker)
    seen = path.is_file() and path.read_text() == path.name
    there = next(folder for folder in path.parents if folder.exists())
    return {
        "versions": versions(),
        "time": time.time(),
        "marker": seen,
        "storage": storage and storage_trouble(storage, path.name),
        "writable": os.access(there, os.W_OK),
        "free": shutil.disk_usage(there).free,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "health_check": {name: int(os.environ.get(f"RAY_{name}", number)) for name, number in HEALTH_CHECK.items()},
    }


def storage_trouble(storage: str, name: str) -> str | None:
    """What is wrong with the storage, seen from this node, where the driver has written a file called `name`; or None."""
    try:
        there = find_storage(storage).get_file_info(name).type == FileType.File
    except (OSError, ArrowException) as error:
        return f"{storage} cannot be reached there ({reason(error)}); see that node's credentials and endpoint."
    return None if there else f"{storage} is another place there than here; give a --storage that all nodes reach."


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
    found: dict[str, Any] | RayError | None, ours: dict[str, str], began: float, folder: Path, room: float,
    storage: str | None,
) -> str | None:  # fmt: skip
    """One sentence about what would go wrong on a node, or None."""
    if found is None:
        return f"no answer came in {NODE_SECONDS} s; see `ray status`, and take the node out or wait."
    if isinstance(found, RayError):
        return f"{str(found).strip().splitlines()[-1]}; install onehour there, or start by `ray job submit`."
    return what_is_wrong(found, ours, began, folder, room, storage)


def what_is_wrong(
    found: dict[str, Any], ours: dict[str, str], began: float, folder: Path, room: float = 0, storage: str | None = None
) -> str | None:
    """One sentence about what would go wrong on a node that has answered, or None."""
    for name, number in ours.items():
        if (there := found["versions"][name]) != number:
            return f"{name} is {there} there and {number} here; install the same versions on all nodes."
    if trouble := folder_trouble(found, folder, room, storage):
        return trouble
    if not began - CLOCK_SECONDS < found["time"] < time.time() + CLOCK_SECONDS:
        return f"the clock there is {found['time'] - began:+.0f} s off; set it right (chrony or ntpd)."
    return None


def folder_trouble(found: dict[str, Any], folder: Path, room: float, storage: str | None) -> str | None:
    """One sentence about what is wrong with the run's folder or its storage on a node, or None."""
    if found["storage"]:
        return str(found["storage"])
    if not found["marker"] and not storage:
        return f"{folder} is not seen there; choose a folder that all nodes share by --runs, or give a --storage."
    if not found["writable"]:
        return f"{folder} cannot be written there; change its rights, or choose another folder by --runs."
    if found["free"] < room:
        return (
            f"{folder} has {found['free'] / 1e6:,.0f} MB free there, and the checkpoints need {room / 1e6:,.0f} MB; "
            "make room, use --keep 1, or choose another folder by --runs."
        )
    return None


def too_many_cores(node: dict[str, Any], found: Any) -> str | None:
    """A sentence about a node whose Ray was told of more cores than there are, or None."""
    told, cores = node["Resources"].get("CPU", 0), found["cores"]
    if told <= cores:
        return None
    return (
        f"told Ray of {told:g} CPU cores where there are {cores} (ray start --num-cpus): workers will wait for each other "
        "there."
    )


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
