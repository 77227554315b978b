"""Preparing data by many processes: Ray Data hands the numbers of the pieces to its workers."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
from pyarrow import ArrowException

from onehour.cluster.connect import ray_cluster
from onehour.cluster.preflight import nodes, room_on
from onehour.data.prepare import Each
from onehour.data.shards import FileSum
from onehour.errors import InputError
from onehour.training.storage import reason


@contextmanager
def workers_on_ray(workers: int, address: str | None) -> Iterator[Each]:
    """A function that calls another with each number of a range, in so many processes at once, with a CPU core each.

    Raises:
        InputError: there is no such cluster, or it has not so many cores.
    """
    with ray_cluster(address, needed="ray.data"):
        there = nodes()
        room = sum(room_on(node.total, cpus=1, gpu=False) for node in there)
        if workers > room:
            raise InputError(
                f"{workers} workers with a CPU core each do not fit on {len(there)} node{'s'[: len(there) != 1]} with "
                f"{room} CPU cores in all; use --workers {room}."
            )
        yield partial(on_ray, workers=workers)


def on_ray(make: Callable[[int], FileSum], numbers: range, workers: int) -> Iterator[FileSum]:
    """The file of each number, as soon as it is made. Ray Data begins again what a process or node took with it."""
    from ray.data import DataContext, TaskPoolStrategy

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    pieces = ray.data.range(len(numbers), override_num_blocks=len(numbers))
    made = pieces.map(partial(told, make), compute=TaskPoolStrategy(min(workers, len(numbers))), num_cpus=1)
    for row in made.iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        yield FileSum(**row["file"])


def told(make: Callable[[int], FileSum], row: dict[str, Any]) -> dict[str, Any]:
    """What `make` returns for a number, or in a sentence why it could not, since Ray would wrap the exception."""
    try:
        return {"file": asdict(make(row["id"])), "error": ""}
    except InputError as error:
        return {"file": None, "error": str(error)}
    except (OSError, ArrowException) as error:
        node = ray.util.get_node_ip_address()
        return {
            "file": None,
            "error": f"The node {node} cannot write a file of the data ({reason(error)}); make room there, "
            "or choose a --storage that all nodes may write.",
        }
