"""The connection to Ray: a Ray of our own on this machine, or a cluster that somebody else started."""

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A Ray that starts here would begin with an idle Python process for each CPU. The workers of a training are others.
os.environ.setdefault("RAY_enable_worker_prestart", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

import ray
from ray._private import node, ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from onehour.cluster.local import LocalCluster, local_cluster
from onehour.errors import InputError


@contextmanager
def ray_cluster(
    address: str | None, needed: str = "onehour.cluster.attempt", dashboard: bool = False
) -> Iterator[None]:
    """A connection to Ray: the one there is, the cluster at `address`, or else a Ray of our own on this machine.

    The module that is `needed` next is imported in the meantime. Our own Ray meets no other one on the machine, listens
    on loopback alone, and ends with the block; it may have its `dashboard`, with the training in it.

    Raises:
        InputError: there is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    connect(address, needed, dashboard)
    try:
        yield
    finally:
        ray.shutdown()


def connect(address: str | None, needed: str = "onehour.cluster.attempt", dashboard: bool = False) -> None:
    """ray.init, without its words, while another thread imports what comes next: that spares more than a second."""
    threading.Thread(target=importlib.import_module, args=(needed,)).start()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            if (cluster := local_cluster()) and cluster.address == address:
                join(cluster)
            ray.init(address=address, **quiet)
        else:
            stay_on_loopback()
            if dashboard:
                os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"  # else its Train page stays empty
            with mock.patch.object(node, "Node", node.Node if dashboard else SmallNode):
                ray.init(address="local", include_dashboard=dashboard, **quiet)
    except Exception as error:  # Ray raises a bare one where a machine is so busy that its processes start too late
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"Ray cannot be reached at {address or 'this machine'}: {reason}") from error


class SmallNode(node.Node):  # type: ignore[misc]
    """Ray's head without three processes that are of use to nobody on one machine without a dashboard.

    One asks a cloud for nodes, one passes on to the driver what workers print, which `connect` leaves in Ray's files, and
    one would be the dashboard. ray.init starts them whatever it is asked for. Each is a Python process, and those take a
    second or two from the cores on which the controller and the workers are to begin.
    """

    def start_monitor(self) -> None:
        pass

    def start_log_monitor(self) -> None:
        pass

    def start_api_server(self, **options: Any) -> None:
        pass


def stay_on_loopback() -> None:
    """Let the Ray that this process starts next listen on 127.0.0.1 alone.

    ray.init replaces a loopback address by the machine's own, unless this variable, made for other systems, says no.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def join(cluster: LocalCluster) -> None:
    """Let this process speak to a cluster of `onehour cluster`, by its token and on loopback."""
    os.environ.pop("RAY_AUTH_TOKEN", None)  # of another cluster, and Ray would believe it first
    os.environ.update(cluster.environment())
    stay_on_loopback()
    Config.initialize("")  # Ray has read the environment when it was imported
    AuthenticationTokenLoader.instance().reset_cache()
