"""Whether the cluster has room for what was asked for, found before Ray waits for it."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import PlacementGroupID
from ray._private import state
from ray.autoscaler.sdk import request_resources
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from onehour.config import ScaleConfig
from onehour.errors import InputError

LOOK_SECONDS = 0.5
SETTLE_SECONDS = (
    5.0  # for what an attempt that has ended held to be given back, and for Ray to notice that a node has gone
)

Resources = dict[str, float]


@dataclass(frozen=True)
class Node:
    """A node that is alive, as Ray sees it now."""

    address: str
    total: Resources
    free: Resources
    leaving: bool
    """Whether it is about to be taken away."""


def nodes() -> list[Node]:
    """The nodes of the cluster that are alive."""
    leaving, free = state.state.get_draining_nodes(), state.available_resources_per_node()
    return [
        Node(node["NodeManagerAddress"], node["Resources"], free.get(node["NodeID"], {}), node["NodeID"] in leaving)
        for node in ray.nodes()
        if node["Alive"]
    ]


def wait_for_room(scale: ScaleConfig, sizes: Sequence[int], patience: float) -> Generator[dict[str, Any], None, int]:
    """Wait until there is room for the least of `sizes` workers; returns the largest of them that there is room for.

    Yields warnings that tell what is waited for. The wait is at most `patience` seconds, and for its time the cluster's
    autoscaler, where there is one, is asked for nodes on which the largest of `sizes` has room. At the end the wish is
    taken back, and with it one that a program has left there that was killed: it would keep nodes for ever. Another
    program that waits says its own again.

    Raises:
        InputError: there is no room for the least of `sizes`.
    """
    began, told = time.monotonic(), False
    try:
        while True:
            waited = time.monotonic() - began
            room, lack = look_for_room(scale, sizes, waited)
            if room:
                return room
            if lack:
                if waited >= patience:
                    raise InputError(lack if not patience else f"{lack} Nothing came in {patience:g} s.")
                ask_for_nodes(scale, max(sizes))
                if not told:
                    told = True
                    yield {"warning": f"Waiting for up to {patience:g} s: {lack}"}
            time.sleep(LOOK_SECONDS)
    finally:
        request_resources(bundles=[])


def look_for_room(scale: ScaleConfig, sizes: Sequence[int], waited: float) -> tuple[int, str | None]:
    """The largest of `sizes` that there is room for, or 0; and what is missing, when that is sure after `waited` seconds."""
    give_back_places_of_the_dead()
    there = [node for node in nodes() if not node.leaving]
    room = largest_size(scale, sizes, there, [node.free for node in there])
    hoped = largest_size(scale, sizes, there, [node.total for node in there])
    if room and (room == hoped or waited > SETTLE_SECONDS):
        return room, None
    if hoped and waited <= SETTLE_SECONDS:
        return 0, None
    return 0, what_is_missing(scale, min(sizes), there, free=bool(hoped))


def ask_for_nodes(scale: ScaleConfig, workers: int) -> None:
    """Tell the autoscaler what the cluster should have room for: `workers`, and beside them what is in use now.

    A cluster that begins with no node but its head has no room, and nobody else would ask. Said again at each look, as
    there is one wish for the whole cluster, and another program that waits overwrites it.
    """
    there = [node for node in nodes() if not node.leaving]
    each = {"CPU": cpus_of_each(scale, workers, there)} | ({"GPU": 1.0} if scale.gpu else {})
    taken = ({kind: node.total[kind] - node.free.get(kind, 0) for kind in each if kind in node.total} for node in there)
    request_resources(bundles=[*([each] * workers), *(used for used in taken if any(used.values()))])


def give_back_places_of_the_dead() -> None:
    """Remove the placement groups of this program's actors that have died, such as a controller that was killed.

    Ray itself keeps them until the program ends as well, so the next attempt would wait for room in vain.
    """
    job = ray.get_runtime_context().get_job_id()
    for data in state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(data)
        by_an_actor = any(byte != 0xFF for byte in group.creator_actor_id)  # others are Tune's, made by the driver
        if by_an_actor and group.creator_actor_dead and group.creator_job_id.hex() == job:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def largest_size(scale: ScaleConfig, sizes: Sequence[int], there: list[Node], room: list[Resources]) -> int:
    """The largest of `sizes` for which there is `room` on the nodes that are there; 0 if there is for none."""
    fitting = (n for n in sizes if sum(room_on(r, cpus_of_each(scale, n, there), scale.gpu) for r in room) >= n)
    return max(fitting, default=0)


def room_to_grow(scale: ScaleConfig, sizes: Sequence[int], workers: int) -> int:
    """The largest of `sizes` for which there would be room, while `workers` of this run hold theirs."""
    there = [node for node in nodes() if not node.leaving]
    cpus = cpus_of_each(scale, max(sizes), there)
    room = workers + sum(room_on(node.free, cpus, scale.gpu) for node in there)
    return max((n for n in sizes if n <= room), default=0)


def nodes_to_leave() -> list[str]:
    """The addresses of nodes whose CPUs are in use and which are about to be taken away."""
    return [node.address for node in nodes() if node.leaving and node.free.get("CPU", 0) < node.total.get("CPU", 0)]


def cpus_of_each(scale: ScaleConfig, workers: int, there: list[Node]) -> float:
    """The CPU cores of each worker: those asked for, or the cores of the one machine shared equally, or 1."""
    shared = max(1.0, there[0].total.get("CPU", 0) // workers) if len(there) == 1 else 1.0
    return scale.cpus_per_worker or shared


def room_on(node: Resources, cpus: float, gpu: bool) -> int:
    """How many workers fit on one node with these resources."""
    room = int(node.get("CPU", 0) / cpus + 1e-9)
    return min(room, int(node.get("GPU", 0))) if gpu else room


def what_is_missing(scale: ScaleConfig, workers: int, there: list[Node], free: bool) -> str:
    """A sentence that says what was asked, what there is (or what of it is `free`) and what to do."""
    resources = [node.free if free else node.total for node in there]
    num_cpus, num_gpus = (sum(each.get(kind, 0) for each in resources) for kind in ("CPU", "GPU"))
    cpus = cpus_of_each(scale, workers, there)
    room = sum(room_on(each, cpus, scale.gpu) for each in resources)
    asked = f"{cpus:g} CPU core{'s' if cpus != 1 else ''}{' and a GPU' if scale.gpu else ''}"
    hint = f"use --workers {room}" if room else "ask for less for each worker"
    if not scale.gpu and len(there) == 1 and num_cpus:
        hint += f", or let workers share cores by --cpus-per-worker {num_cpus / workers:.2g}"
    of_workers, of_nodes = ("" if number == 1 else "s" for number in (workers, len(there)))
    return (
        f"{workers} worker{of_workers} with {asked} each do not fit on {len(there)} node{of_nodes} with {num_cpus:g} CPU "
        f"cores and {num_gpus:g} GPUs {'free' if free else 'in all'}; {hint}."
    )
