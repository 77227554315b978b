"""Which Ray cluster is meant, and whether it answers. Asked before anything else, so it imports no ray."""

import os
from pathlib import Path

from onehour.cluster.local import local_cluster
from onehour.cluster.ports import answers
from onehour.errors import InputError

RAY_NOTE = Path("/tmp/ray/ray_current_cluster")  # where Ray notes the address of a cluster started on this machine


def cluster_address(asked: str | None) -> str | None:
    """The address of the cluster to join: the one asked for, or that of the Ray job this is; None: a Ray of our own.

    Left to itself, Ray would try for minutes to reach a cluster that has ended.

    Raises:
        InputError: there is no such cluster.
    """
    address = asked or os.environ.get("RAY_ADDRESS")
    if address == "auto":
        if cluster := local_cluster():
            address = cluster.address
        elif RAY_NOTE.is_file():
            address = RAY_NOTE.read_text().strip()
        else:
            raise InputError("No Ray cluster was started on this machine; start one by: onehour cluster start")
    if address and not answers(address):
        raise InputError(
            f"No Ray cluster answers at {address}; start one there by ray start --head, or leave --address and "
            "RAY_ADDRESS away to train on this machine."
        )
    return address
