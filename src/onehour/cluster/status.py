"""What the cluster of this machine has now, asked without joining it, which would take some seconds."""

from typing import Any

from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions  # type: ignore[attr-defined]

from onehour.cluster.connect import join
from onehour.cluster.local import LocalCluster


def node_lines(cluster: LocalCluster) -> list[str]:
    """A line for each node, by its name; of nodes of one name, the one that is alive."""
    join(cluster)
    state = GlobalState()
    state._initialize_global_state(
        GcsClientOptions.create(cluster.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    )
    nodes = {node["NodeName"]: node for node in sorted(state.node_table(), key=lambda node: node["Alive"])}
    free = state.available_resources_per_node()
    return [f"{name}  {free_of(node, free)}" for name, node in sorted(nodes.items(), key=lambda item: int(item[0][5:]))]


def free_of(node: dict[str, Any], free: dict[str, dict[str, float]]) -> str:
    """How many CPUs and GPUs of a node are free, or that it has gone."""
    if not node["Alive"]:
        return "has gone"
    total, left = node["Resources"], free.get(node["NodeID"], {})
    return ", ".join(
        f"{left.get(kind, 0):g} of {total[kind]:g} {kind}s free" for kind in ("CPU", "GPU") if kind in total
    )
