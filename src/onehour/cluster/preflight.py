"""Whether the cluster can hold what was asked for, found before Ray waits for it."""

import ray

from onehour.config import ScaleConfig
from onehour.errors import InputError


def check_resources(scale: ScaleConfig, workers: int) -> float:
    """The CPU cores of each worker, after making sure that all workers fit on the nodes that there are.

    Raises:
        InputError: they do not fit.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_cpus, num_gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    cpus = scale.cpus_per_worker or (max(1.0, num_cpus // workers) if len(nodes) == 1 else 1.0)
    room = sum(room_on(node, cpus, scale.gpu) for node in nodes)
    if room < workers:
        asked = f"{cpus:g} CPU core{'s' if cpus != 1 else ''}{' and a GPU' if scale.gpu else ''}"
        hint = f"use --workers {room}" if room else "ask for less for each worker"
        if not scale.gpu and len(nodes) == 1:
            hint += f", or let workers share cores by --cpus-per-worker {num_cpus / workers:.2g}"
        raise InputError(
            f"{workers} workers with {asked} each do not fit on {len(nodes)} node{'s' if len(nodes) != 1 else ''} with "
            f"{num_cpus:g} CPU cores and {num_gpus:g} GPUs in all; {hint}."
        )
    return cpus


def room_on(node: dict[str, float], cpus: float, gpu: bool) -> int:
    """How many workers fit on one node with these resources."""
    room = int(node.get("CPU", 0) / cpus + 1e-9)
    return min(room, int(node.get("GPU", 0))) if gpu else room
