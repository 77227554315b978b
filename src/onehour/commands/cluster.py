"""onehour cluster: several Ray nodes on this machine, for demos and tests of what crosses nodes."""

from collections.abc import Sequence

from onehour.cli import parse, this_command
from onehour.cluster import local
from onehour.cluster.local import LocalCluster
from onehour.cluster.ports import answers
from onehour.commands.config import ClusterConfig
from onehour.errors import InputError
from onehour.show.doctor import memory_bytes
from onehour.show.terminal import in_bytes

HEAD_BYTES = 1_500_000_000  # the processes of a head take
NODE_BYTES = 250_000_000  # those of another node, before it has work
HELP = """usage: onehour cluster start [--nodes 3] [--cpus-per-node 2] | status | scale NODES | stop

  onehour cluster start     several Ray nodes on this machine, on loopback, behind a token; --help has the options
  onehour cluster status    its nodes and its jobs
  onehour cluster scale 4   more nodes, or fewer: nodes that go tell their trainings before
  onehour cluster stop      ends it, its jobs, and nothing else"""


def cluster(arguments: Sequence[str]) -> None:
    """onehour cluster start | status | scale NODES | stop."""
    match list(arguments):
        case ["start", *options]:
            start(parse(ClusterConfig, options, "cluster start"))
        case ["status"]:
            status(running())
        case ["scale", nodes] if nodes.isdigit() and int(nodes) >= 1:
            scale(running(), int(nodes))
        case ["stop"]:
            stop(local.local_cluster())
        case [] | ["-h" | "--help"]:
            print(HELP)
        case words:
            raise InputError(
                f"There is no: onehour cluster {' '.join(words)}; there are start, status, scale NODES and stop."
            )


def running() -> LocalCluster:
    """The cluster of this machine, or InputError."""
    if there := local.local_cluster():
        return there
    raise InputError("No cluster of onehour runs on this machine; start one by: onehour cluster start")


def start(options: ClusterConfig) -> None:
    """Start it, and say how to go on."""
    check_memory(options.nodes, 0)
    print("Starting, which takes some seconds for each node; Ctrl-C ends it again ...", flush=True)
    there = local.start(options.nodes, options.cpus_per_node, options.port, options.dashboard_port)
    onehour = this_command()
    print(f"cluster    {there.size()}, on 127.0.0.1 alone")
    print(f"submit     {onehour} submit -- train gpt --workers 2")
    print(f"train      {onehour} train gpt --workers 2 --address {there.address}")
    print(f"watch      {onehour} cluster status, or {there.jobs} in a browser, with the token in {there.token_file()}")
    print(f"stop       {onehour} cluster stop")
    print(f"ray job    takes the same after: export RAY_API_SERVER_ADDRESS={there.jobs} RAY_AUTH_MODE=token "
          f"RAY_AUTH_TOKEN_PATH={there.token_file()}")  # fmt: skip


def check_memory(nodes: int, there: int) -> None:
    """Raise InputError if so many nodes, of which some are there, would leave no memory for work."""
    _, available = memory_bytes()
    need = (nodes - there) * NODE_BYTES + (0 if there else HEAD_BYTES - NODE_BYTES)
    if available is not None and need > available:
        most = nodes - (need - available) // NODE_BYTES - 1
        raise InputError(
            f"{nodes} nodes would take {in_bytes(need)} of memory before they have any work, and {in_bytes(available)} are "
            f"free here; {f'ask for {most} at most' if most > there else 'end other programs'}."
        )


def status(there: LocalCluster) -> None:
    """Its nodes, with their CPUs, and its jobs."""
    if not answers(there.address):
        raise InputError("The head of the cluster has died; end the rest by: onehour cluster stop, and start it again.")
    from onehour.cluster.jobs import job_client, job_lines
    from onehour.cluster.status import node_lines

    print(f"address    {there.address}")
    print(f"dashboard  {there.jobs}, with the token in {there.token_file()}")
    for name, lines in (("nodes", node_lines(there)), ("jobs", job_lines(job_client(there.jobs)))):
        print(name)
        for line in lines or ["none yet"]:
            print(f"  {line}")


def scale(there: LocalCluster, nodes: int) -> None:
    """Let it have more nodes, or fewer."""
    check_memory(nodes, there.nodes)
    print(f"A cluster of {there.size()} ...", flush=True)
    print(f"... and now of {local.scale(there, nodes).size()}.")


def stop(there: LocalCluster | None) -> None:
    """End it, if there is one."""
    if there is None:
        print("No cluster of onehour runs on this machine; there is nothing to stop.")
        return
    local.stop(there)
    print(f"The cluster of {there.size()} has ended, and so have its jobs.")
