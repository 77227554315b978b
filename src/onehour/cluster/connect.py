"""The connection to Ray: a Ray of our own on this machine, or a cluster that somebody else started."""

import importlib
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from onehour.errors import InputError


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """A connection to Ray: the one there is, the cluster at `address`, or else a Ray of our own on this machine.

    Our own meets no other Ray on the machine, listens on loopback alone, and ends with the block.

    Raises:
        InputError: there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    connect(address)
    try:
        yield
    except KeyboardInterrupt:
        # Not ray.shutdown: the trainer's thread still speaks with Ray, and would take this process down without a word.
        # A Ray of our own notices within seconds that this process has gone; its workers must not write until then.
        if not address:
            end_workers()
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def connect(address: str | None) -> None:
    """ray.init, without its words, while another thread imports what comes next: that spares more than a second."""
    threading.Thread(target=importlib.import_module, args=("onehour.cluster.attempt",)).start()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            stay_on_loopback()
            ray.init(address="local", include_dashboard=False, **quiet)
    except (ConnectionError, RayError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"Ray cannot be reached at {address or 'this machine'}: {reason}") from error


def end_workers() -> None:
    """Kill the worker processes of the Ray that this process started."""
    node: Any = ray._private.worker._global_node
    (raylet,) = node.all_processes["raylet"]
    subprocess.run(["pkill", "-KILL", "-P", str(raylet.process.pid)], check=False)


def stay_on_loopback() -> None:
    """Let the Ray that this process starts next listen on 127.0.0.1 alone.

    ray.init replaces a loopback address by the machine's own, unless this variable, made for other systems, says no.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
