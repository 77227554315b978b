"""The process that holds the nodes of `onehour cluster`: python -m onehour.cluster.keeper PLAN.

The nodes are its children, made as `ray start` makes its own; when it ends, in whatever way, they end. `ray start` would
not do: its nodes outlive it, and `ray stop` ends every Ray of the machine.
"""

import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from onehour.cluster.connect import stay_on_loopback  # imports ray, which brings psutil
from onehour.cluster.local import LOOK_SECONDS, LocalCluster, keeper_lock, read, state_file

import psutil  # isort: skip
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.utils import write_ray_address

LOCK_SECONDS = 2
END_SECONDS = 2  # Ray itself gives a process one; raylets take all that they are given
OBJECT_BYTES = 100_000_000  # of the object store of each node; Ray's default is 30 % of the machine's memory for each


def main() -> None:
    """Hold the cluster of the plan, a file that `LocalCluster.write` has written, until SIGTERM comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    stay_on_loopback()
    try:
        with keeper_lock().acquire(timeout=LOCK_SECONDS):
            hold(Path(sys.argv[1]))
    except Timeout:
        sys.exit("another `onehour cluster start` is at work.")


def hold(plan_file: Path) -> None:
    """Have as many nodes as the plan says, and write down when they are there; at the end nothing of it is left."""
    if killed := read(state_file()):  # by a keeper that could not clean up
        clean_up(killed)
    nodes: list[Node] = []
    try:
        while plan := read(plan_file):
            if plan.nodes != len(nodes):
                fit(nodes, plan)
                replace(plan, keeper=os.getpid()).write(state_file())
            time.sleep(LOOK_SECONDS)
    finally:
        end_children()
        if held := read(state_file()):  # else it has not started, and whoever wants it reads in the folder why
            clean_up(held)


def clean_up(cluster: LocalCluster) -> None:
    """Remove the files of a cluster that has ended."""
    state_file().unlink()
    shutil.rmtree(cluster.folder, ignore_errors=True)


def fit(nodes: list[Node], plan: LocalCluster) -> None:
    """Start or end nodes until there are as many as planned. The first is the head, with the job server."""
    gcs_port, dashboard_port = (int(url.rpartition(":")[2]) for url in (plan.address, plan.jobs))
    if not nodes:
        nodes.append(new_node(plan, 1, gcs_server_port=gcs_port, include_dashboard=True, dashboard_port=dashboard_port))
        write_ray_address(plan.address, str(plan.ray_folder()))  # where its jobs look, and no other Ray here does
    while len(nodes) < plan.nodes:
        # The machine's GPUs are the head's, or each node would promise them once more; one monitor reads the logs of all.
        more: dict[str, Any] = {"gcs_address": plan.address, "num_gpus": 0, "include_log_monitor": False}
        nodes.append(new_node(plan, len(nodes) + 1, **more))
    while len(nodes) > plan.nodes:
        leaving = nodes.pop()
        leaving._drain_node_before_shutdown()  # a notice, as of a spot machine: up to 30 s to leave it
        leaving.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)


def new_node(plan: LocalCluster, number: int, **more: Any) -> Node:
    """Start a node of the cluster, whose processes die with this one."""
    params = RayParams(
        node_name=f"node-{number}",
        node_ip_address="127.0.0.1",
        temp_dir=str(plan.ray_folder()),
        runtime_env_dir_name=f"runtime_env_{number}",  # else a node would remove there what another one still needs
        num_cpus=plan.cpus_per_node,
        object_store_memory=OBJECT_BYTES,
        dashboard_agent_listen_port=None,  # a free one, as all others: several nodes share this machine
        min_worker_port=0,
        max_worker_port=0,
        **more,
    )
    return Node(params, head=number == 1, shutdown_at_exit=False, spawn_reaper=True)


def end_children() -> None:
    """End all processes that came from this one: nodes, workers, jobs."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    left = psutil.wait_procs(children, timeout=END_SECONDS)[1]
    for child in left:
        child.kill()
    psutil.wait_procs(left, timeout=END_SECONDS)  # whoever is told that they have ended may look


if __name__ == "__main__":
    main()
