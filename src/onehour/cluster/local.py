"""The cluster of `onehour cluster`: several Ray nodes on this machine, held by one process of ours, the keeper.

The keeper holds a lock for as long as it lives, and writes into a file beside it what it holds. So a cluster is there
exactly when its lock is taken, and whoever ends it cannot hit another process. Imports no ray.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock, Timeout

from onehour.cluster.ports import answers, free_ports
from onehour.errors import InputError, TrainingError

SHORT = "/tmp"  # sockets will lie below, and their paths must be short, which those of macOS's own choice are not
STOP_SECONDS = 60
LOOK_SECONDS = 0.1
OF_OTHER_CLUSTERS = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")  # variables that Ray would believe before ours


@dataclass(frozen=True)
class LocalCluster:
    """What the keeper holds."""

    address: str
    """Where Ray itself listens, as host:port: what --address of `onehour train` takes."""
    jobs: str
    """URL of the dashboard and the job server: what --address of `onehour submit` and `ray job` takes."""
    folder: Path
    """Token, logs and sockets; it goes with the cluster."""
    nodes: int
    cpus_per_node: int
    keeper: int = 0
    """The number of the keeper's process."""

    def size(self) -> str:
        """How large it is, in words."""
        nodes, cpus = self.nodes, self.cpus_per_node
        return f"{nodes} node{'s' * (nodes != 1)} of {cpus} CPU{'s' * (cpus != 1)}"

    def plan_file(self) -> Path:
        """Where the keeper reads what it is to hold."""
        return self.folder / "plan.json"

    def ray_folder(self) -> Path:
        """What Ray keeps; it lets every user of the machine write there, but only the owner gets as far as `folder`."""
        return self.folder / "ray"

    def token_file(self) -> Path:
        """What only its owner may read, and whoever has it may run anything here as the owner."""
        return self.folder / "token"

    def environment(self) -> dict[str, str]:
        """The environment variables of whoever is a part of the cluster or speaks to it."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file()),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray replaces the loopback address by the machine's own
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def write(self, file: Path) -> None:
        """Write this down, whole or not at all."""
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), default=str))
        partial.replace(file)


def state_file() -> Path:
    """Where the keeper of this machine writes what it holds. Several machines may share a home."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "onehour" / f"cluster-{socket.gethostname()}.json"


def keeper_lock() -> FileLock:
    """What the keeper of this machine holds for as long as it lives."""
    return FileLock(state_file().with_suffix(".lock"))


def read(file: Path) -> LocalCluster | None:
    """What `write` has written there; None if there is nothing that can be read."""
    try:
        state = json.loads(file.read_text())
    except OSError:
        return None
    return LocalCluster(**state | {"folder": Path(state["folder"])})


def local_cluster() -> LocalCluster | None:
    """The cluster that `onehour cluster start` has started on this machine; None if there is none."""
    cluster = read(state_file())
    if cluster is None:
        return None
    try:
        with keeper_lock().acquire(timeout=0):
            return None
    except Timeout:
        return cluster


def check_extra() -> None:
    """Raise InputError unless Ray's dashboard and jobs are installed."""
    if not (find_spec("aiohttp") and find_spec("pydantic")):
        raise InputError("Jobs and Ray's dashboard are not installed: pip install 'onehour[cluster]'")


def start(nodes: int, cpus_per_node: int, port: int | None, dashboard_port: int | None) -> LocalCluster:
    """Start a cluster of `nodes` nodes that listens on loopback alone and wants a token; it is ready when this returns.

    Raises:
        InputError: there is one already, a port is taken, or Ray does not start.
    """
    check_start({"--port": port, "--dashboard-port": dashboard_port})
    free = free_ports(2)
    folder = Path(tempfile.mkdtemp(prefix="onehour-", dir=SHORT))
    cluster = LocalCluster(
        address=f"127.0.0.1:{port or free[0]}",
        jobs=f"http://127.0.0.1:{dashboard_port or free[1]}",
        folder=folder,
        nodes=nodes,
        cpus_per_node=cpus_per_node,
    )
    cluster.token_file().touch(mode=0o600)
    cluster.token_file().write_text(secrets.token_hex(32))
    keeper = start_keeper(cluster)
    try:
        return wait_for(cluster, lambda: keeper.poll() is None)
    except BaseException:  # Ctrl-C as well: nothing stays behind
        keeper.terminate()
        keeper.wait()
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_start(ports: dict[str, int | None]) -> None:
    """Raise InputError if a cluster cannot be started here; `ports` are those that were asked for, by their options."""
    if there := local_cluster():
        raise InputError(
            f"A cluster of {there.size()} runs on this machine already ({there.jobs}); "
            "see it by: onehour cluster status, or end it by: onehour cluster stop"
        )
    check_extra()
    for option, port in ports.items():
        if port and answers(f"127.0.0.1:{port}"):
            raise InputError(f"Something listens at port {port} already; choose another {option}, or leave it away.")
    folder = state_file().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}, for notes on what runs, cannot be made ({error.strerror}); set XDG_STATE_HOME."
        ) from error


def scale(cluster: LocalCluster, nodes: int) -> LocalCluster:
    """Let it have so many nodes. The last ones go, with a notice and up to 30 s in which trainings can leave them.

    Raises:
        InputError: it has ended meanwhile.
    """
    wanted = replace(cluster, nodes=nodes)
    wanted.write(cluster.plan_file())
    return wait_for(wanted, lambda: local_cluster() is not None)


def wait_for(wanted: LocalCluster, alive: Callable[[], bool]) -> LocalCluster:
    """Wait until the keeper holds what is wanted; returns it.

    Raises:
        InputError: the keeper is no longer alive.
    """
    while (held := read(state_file())) is None or (held.folder, held.nodes) != (wanted.folder, wanted.nodes):
        if not alive():
            log = wanted.folder / "keeper.log"
            said = log.read_text().strip() if log.is_file() else ""
            raise InputError(f"The cluster has failed: {(said or 'it was stopped.').splitlines()[-1]}")
        time.sleep(LOOK_SECONDS)
    return held


def start_keeper(cluster: LocalCluster) -> subprocess.Popen[bytes]:
    """The process that starts the nodes of `cluster` and holds them, in a session of its own."""
    cluster.write(cluster.plan_file())
    env = {name: value for name, value in os.environ.items() if name not in OF_OTHER_CLUSTERS}
    env |= cluster.environment()
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"  # where a job finds python, and with it onehour
    command = [sys.executable, "-m", "onehour.cluster.keeper", str(cluster.plan_file())]
    with (cluster.folder / "keeper.log").open("wb") as log:
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def stop(cluster: LocalCluster) -> None:
    """End the keeper, and with it all nodes and jobs of `cluster`; when this returns, none of them is left.

    Raises:
        TrainingError: it does not end.
    """
    os.kill(cluster.keeper, signal.SIGTERM)
    try:
        keeper_lock().acquire(timeout=STOP_SECONDS, poll_interval=LOOK_SECONDS).lock.release()
    except Timeout as error:
        raise TrainingError(
            f"The cluster did not end in {STOP_SECONDS} s; see {cluster.folder}/keeper.log, or: kill -9 {cluster.keeper}"
        ) from error
