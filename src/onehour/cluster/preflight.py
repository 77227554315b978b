"""Whether the cluster has room for what was asked for, found before Ray waits for it."""

import time
from collections.abc import Generator, Sequence
from typing import Any

import ray
from ray._private import state

from onehour.config import ScaleConfig
from onehour.errors import InputError

LOOK_SECONDS = 0.5
SETTLE_SECONDS = (
    5.0  # for what an attempt that has ended held to be given back, and for Ray to notice that a node has gone
)


def wait_for_room(scale: ScaleConfig, sizes: Sequence[int], patience: float) -> Generator[dict[str, Any], None, int]:
    """Wait until there is room for the least of `sizes` workers; returns the largest of them that there is room for.

    Yields warnings that tell what is waited for. The wait is at most `patience` seconds.

    Raises:
        InputError: there is no room for the least of `sizes`.
    """
    began, told = time.monotonic(), False
    while True:
        waited = time.monotonic() - began
        room = largest_size(scale, sizes, nodes(free=True))
        hoped = largest_size(scale, sizes, nodes(free=False))
        if room and (room == hoped or waited > SETTLE_SECONDS):
            return room
        if not hoped or waited > SETTLE_SECONDS:
            lack = what_is_missing(scale, min(sizes), "" if hoped else " in all")
            if waited >= patience:
                raise InputError(lack if not patience else f"{lack} Nothing came in {patience:g} s.")
            if not told:
                told = True
                yield {"warning": f"Waiting for up to {patience:g} s: {lack}"}
        time.sleep(LOOK_SECONDS)


def num_nodes() -> int:
    """The nodes of the cluster that are alive."""
    return sum(node["Alive"] for node in ray.nodes())


def nodes(free: bool) -> list[dict[str, float]]:
    """The resources of each node that is alive and not about to be taken away; `free`: those that nobody uses."""
    leaving = state.state.get_draining_nodes()
    unused = state.available_resources_per_node()
    return [
        unused.get(node["NodeID"], {}) if free else node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def largest_size(scale: ScaleConfig, sizes: Sequence[int], there: list[dict[str, float]]) -> int:
    """The largest of `sizes` for which there is room on these nodes; 0 if there is for none."""
    fitting = (n for n in sizes if sum(room_on(node, cpus_of_each(scale, n), scale.gpu) for node in there) >= n)
    return max(fitting, default=0)


def room_to_grow(scale: ScaleConfig, sizes: Sequence[int], workers: int) -> int:
    """The largest of `sizes` for which there would be room, while `workers` of this run hold theirs."""
    unused = sum(room_on(node, cpus_of_each(scale, max(sizes)), scale.gpu) for node in nodes(free=True))
    return max((n for n in sizes if n <= workers + unused), default=0)


def nodes_to_leave() -> list[str]:
    """The addresses of nodes on which something of ours runs and which are about to be taken away."""
    leaving = state.state.get_draining_nodes()
    unused = state.available_resources_per_node()
    return [
        node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["NodeID"] in leaving and unused.get(node["NodeID"], {}).get("CPU", 0) < node["Resources"].get("CPU", 0)
    ]


def cpus_of_each(scale: ScaleConfig, workers: int) -> float:
    """The CPU cores of each worker: those asked for, or the cores of the one machine shared equally, or 1."""
    there = nodes(free=False)
    return scale.cpus_per_worker or (max(1.0, there[0].get("CPU", 0) // workers) if len(there) == 1 else 1.0)


def room_on(node: dict[str, float], cpus: float, gpu: bool) -> int:
    """How many workers fit on one node with these resources."""
    room = int(node.get("CPU", 0) / cpus + 1e-9)
    return min(room, int(node.get("GPU", 0))) if gpu else room


def what_is_missing(scale: ScaleConfig, workers: int, in_all: str) -> str:
    """A sentence that says what was asked, what there is and what to do."""
    there = nodes(free=not in_all)
    num_cpus, num_gpus = (sum(node.get(kind, 0) for node in there) for kind in ("CPU", "GPU"))
    cpus = cpus_of_each(scale, workers)
    room = sum(room_on(node, cpus, scale.gpu) for node in there)
    asked = f"{cpus:g} CPU core{'s' if cpus != 1 else ''}{' and a GPU' if scale.gpu else ''}"
    hint = f"use --workers {room}" if room else "ask for less for each worker"
    if not scale.gpu and len(there) == 1:
        hint += f", or let workers share cores by --cpus-per-worker {num_cpus / workers:.2g}"
    return (
        f"{workers} workers with {asked} each do not fit on {len(there)} node{'s' if len(there) != 1 else ''} with "
        f"{num_cpus:g} CPU cores and {num_gpus:g} GPUs {'in all' if in_all else 'free'}; {hint}."
    )
