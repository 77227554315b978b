"""A link that is cut, for real: python bench/link.py (root on Linux, with iproute2)

Two hosts that are network namespaces, each with a Ray node of one CPU, and a switch between them. A training with
--workers 1:2 runs across both. Then the link of the host without the head is cut: no connection is closed, nothing
answers any more. The training has to notice, go on with the worker that is left, and lose no sample.

RAY_health_check_timeout_ms, RAY_health_check_period_ms and RAY_health_check_failure_threshold reach the head from here.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from onehour.training.checkpoint import read_facts
from onehour.training.record import examine, read_record
from onehour.training.run import Run

HOSTS = {"head": "10.79.0.1", "other": "10.79.0.2"}
PORT = 6379
PATIENCE = 240
RAY = str(Path(sys.executable).parent / "ray")
ENV = os.environ | {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",  # no host but these two can reach the cluster
    "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1",  # both hosts have the name of this machine
}  # fmt: skip
SLOW = """
import time
from dataclasses import dataclass
from onehour.recipes.toy import Toy

@dataclass(frozen=True)
class Slow(Toy):
    def loss(self, model, batch):
        time.sleep(0.02)
        return super().loss(model, batch)
"""


def ip(*arguments: str) -> None:
    """Run ip of iproute2."""
    subprocess.run(["ip", *arguments], check=True)


@contextlib.contextmanager
def hosts(tag: str) -> Iterator[None]:
    """The namespaces head, other and switch, with `tag` after each name; the switch is a bridge."""
    names = [*HOSTS, "switch"]
    try:
        for name in names:
            ip("netns", "add", name + tag)
            ip("-n", name + tag, "link", "set", "lo", "up")
        ip("-n", f"switch{tag}", "link", "add", "bridge", "type", "bridge")
        ip("-n", f"switch{tag}", "link", "set", "bridge", "up")
        for name, address in HOSTS.items():
            ip("-n", f"switch{tag}", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name + tag)
            ip("-n", f"switch{tag}", "link", "set", name, "master", "bridge", "up")
            ip("-n", name + tag, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name + tag, "link", "set", "eth0", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name + tag], check=False)


@contextlib.contextmanager
def started(host: str, command: list[str], said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command on a host, in a process group of its own, which ends with the block."""
    with said.open("ab") as output:
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, *command], env=ENV, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def ray_node(name: str, folder: Path) -> list[str]:
    """The command that starts a Ray node on a host."""
    begin = ["--head", f"--port={PORT}", f"--temp-dir={folder}", "--include-dashboard=false"]
    join = [f"--address={HOSTS['head']}:{PORT}"]
    size = ["--num-cpus=1", "--object-store-memory=100000000"]
    return [RAY, "start", *(begin if name == "head" else join), f"--node-ip-address={HOSTS[name]}", "--block", *size]


class Training:
    """The command line on the host of the head."""

    def __init__(self, folder: Path) -> None:
        self.run, self.said = Run(folder / "runs" / "link"), folder / "said.txt"
        (folder / "slow.py").write_text(SLOW)
        self.command = [
            sys.executable, "-m", "onehour", "train", str(folder / "slow.py"), "--workers=1:2", "--cpus-per-worker=1",
            "--num-steps=1000000", "--global-batch-size=4", "--learning-rate=0.005", "--checkpoint-every=20",
            "--log-every=1", "--evaluate-every=None", "--audit", "--wait=2m", "--name=link",
            f"--address={HOSTS['head']}:{PORT}", f"--runs={folder / 'runs'}",
        ]  # fmt: skip

    def step(self) -> int:
        """The newest step, or 0."""
        rows = self.run.metrics_file.read_text().splitlines() if self.run.metrics_file.is_file() else []
        return int(json.loads(rows[-1])["step"]) if rows and rows[-1].endswith("}") else 0

    def attempts(self) -> list[int]:
        """The number of workers of each attempt that has trained a step."""
        if not self.run.audit_file.is_file():
            return []
        return [attempt.facts["num_workers"] for attempt in read_record(self.run.audit_file).values()]


def wait_until(done: Callable[[], bool], said: Path) -> float:
    """Seconds until `done`; `said` is what to show if it never is."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > PATIENCE:
            raise SystemExit(f"Nothing came in {PATIENCE} s:\n{said.read_text()[-3000:]}")
        time.sleep(0.05)
    return time.monotonic() - began


def has_started(said: Path) -> bool:
    """Whether a Ray node has said so."""
    return "Ray runtime started" in said.read_text()


def main() -> None:
    """Cut the link and print the seconds."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
        raise SystemExit("bench/link.py makes network namespaces, which takes Linux, root and iproute2.")
    tag = str(os.getpid())
    with tempfile.TemporaryDirectory() as name, hosts(tag), contextlib.ExitStack() as nodes:
        folder = Path(name)
        for host in HOSTS:
            said = folder / f"{host}.txt"
            nodes.enter_context(started(host + tag, ray_node(host, folder / "ray"), said))
            wait_until(partial(has_started, said), said)
        training = Training(folder)
        with started(f"head{tag}", training.command, training.said) as process:
            measure(training, process, tag)


def workers_on(host: str) -> list[str]:
    """The process numbers of the workers on a host."""
    there = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True).stdout.split()
    named = subprocess.run(["pgrep", "-f", "ray::RayTrainWorker"], capture_output=True, text=True, check=False).stdout
    return sorted({*there} & {*named.split()})


def measure(training: Training, process: subprocess.Popen[bytes], tag: str) -> None:
    """Cut the link once two workers train, and watch until one goes on."""
    wait_until(lambda: training.attempts()[-1:] == [2] and training.step() >= 30, training.said)
    num_attempts = len(training.attempts())
    said, at = len(training.said.read_text()), training.step()
    began = time.monotonic()
    ip("-n", f"switch{tag}", "link", "set", "other", "down")
    told = wait_until(lambda: "A worker died" in training.said.read_text()[said:], training.said)
    again = told + wait_until(lambda: len(training.attempts()) > num_attempts, training.said)
    wait_until(lambda: not workers_on(f"other{tag}"), training.said)
    alone = time.monotonic() - began
    print(training.said.read_text())
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    newest, _ = training.run.newest_checkpoint()
    assert newest is not None
    facts = read_facts(newest)
    account = examine(read_record(training.run.audit_file), facts["attempt"], facts["step"])
    print(
        f"cut at step {at}: told after {told:.1f} s, training again after {again:.1f} s with {training.attempts()[-1]} of "
        f"2 workers, the worker that was cut off gone after {alone:.1f} s; {account.lost} samples lost, "
        f"{account.twice} twice, {account.done_again} steps done again"
    )
    sys.exit(bool(account.lost or account.twice or account.wrong))


if __name__ == "__main__":
    main()
