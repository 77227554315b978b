"""Real hosts without Docker: each has its own disk, processes, memory files, network address and sshd.

A lab is a tree of Linux namespaces (lab.sh is its inside) on a network that nothing outside of it can reach. It ends
with the process that started it, however that ends: its first process reads a pipe from here, and with that process
the kernel takes away everything else.
"""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

VENV = sys.prefix
PATH = f"{VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLONE = Path(__file__).parents[2]
# What is trained on the hosts. Its losses have the same bits at any number of workers: rounded otherwise, they would drift
# apart in so many steps, now and then by more than 1e-5 of themselves.
OPTIONS = "--num-steps=400 --checkpoint-every=20 --log-every=1 --evaluate-every=None --reproducible"
LOOK_SECONDS = 0.3  # to look means to start a process on a host, mostly, which takes time from what is looked at
PATIENCE = 300  # seconds, for a machine that has much else to do; what comes never is known after that


def wait_until(done: Callable[[], object], said: Callable[[], str] = lambda: "") -> float:
    """Seconds until `done`; `said` is what to show if that never comes."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < PATIENCE, said()
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


def commands(readme: str, word: str) -> list[str]:
    """The lines of shell below **word.** in the README of a kind of cluster."""
    block = re.search(rf"^\*\*{word}\.\*\*.*?\n\n((?:    [^\n]*\n)+)", readme, re.DOTALL | re.MULTILINE)
    assert block, f"The README has no commands below {word}"
    return [line.removeprefix("    ") for line in block[1].splitlines()]


def copy_clone(folder: Path) -> None:
    """What a clone has that clusters need."""
    for name in ("src", "clusters"):
        shutil.copytree(CLONE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.lock", ".gitignore", ".rayignore"):
        shutil.copy(CLONE / name, folder)


class Lab:
    """Hosts that are on, with the folder `shared` at /shared on each; the first one has the key to all by SSH."""

    def __init__(self, folder: Path, hosts: Sequence[str], packages: Sequence[str]) -> None:
        self.hosts, self.folder, self.shared = list(hosts), folder, folder / "shared"
        self.started: dict[subprocess.Popen[bytes], Path] = {}
        self.said = folder / "lab.log"
        self.shared.mkdir()
        (folder / "lab").mkdir()
        script = Path(__file__).with_name("lab.sh")
        command = ["unshare", "--mount", "bash", str(script), "build", str(folder / "lab"), str(self.shared), VENV]
        self.process = subprocess.Popen(
            [*command, " ".join(packages), *hosts],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said.open("w"), text=True, start_new_session=True,
        )  # fmt: skip
        self.reply()
        self.inside = child_of(self.process.pid)
        self.inits: dict[str, str] = {}
        for host in hosts:
            self.on(host)

    def reply(self) -> str:
        """The next line that the inside says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.said.read_text()[-2000:]
        return line.strip()

    def tell(self, verb: str, host: str) -> str:
        """Have the inside do something, and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{verb} {host}\n")
        self.process.stdin.flush()
        return self.reply()

    def on(self, host: str) -> None:
        """Boot a host, from the disk that it had."""
        self.inits[host] = self.tell("on", host)

    def cut(self, host: str) -> None:
        """Pull the plug of its network: nothing is closed, nothing answers."""
        self.tell("cut", host)

    def power_off(self, host: str) -> None:
        """Take its power away: what it was connected to hears nothing of it, and all its processes end."""
        self.cut(host)
        self.tell("off", host)

    def address(self, host: str) -> str:
        """The host's address on the lab's network."""
        return f"10.0.0.{self.hosts.index(host) + 1}"

    def command(self, host: str, *command: str, **env: str) -> list[str]:
        """What to run here so that the command runs there, as a user who has just logged in would."""
        enter = ["nsenter", "-m", "-p", "-n", "-u", "-i"]
        env = {"HOME": "/root", "PATH": PATH, "TERM": "dumb", **env}
        there = ["-r", "-w", "-t", self.inits[host], "env", "-i", *(f"{k}={v}" for k, v in env.items()), *command]
        return [*enter, "-t", str(self.inside), *enter, *there]

    def run(self, host: str, line: str, timeout: float = PATIENCE, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell there; what it says is in stdout."""
        ended = f"exec timeout --kill-after=5 {timeout} bash -c {shlex.quote(line)}"
        return subprocess.run(
            self.command(host, "bash", "-c", ended, **env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, start_new_session=True,
        )  # fmt: skip

    def check(self, host: str, line: str, timeout: float = PATIENCE, **env: str) -> str:
        """The same for a line that has to end well; returns what it says."""
        done = self.run(host, line, timeout, **env)
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        return done.stdout

    def start(self, host: str, line: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a line of shell there, which ends with its host; `said_by` has what it says."""
        output = self.folder / f"{len(self.started)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                self.command(host, "bash", "-c", line, **env), stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.started[process] = output
        return process

    def said_by(self, process: subprocess.Popen[bytes]) -> str:
        """What a line that was started has said so far."""
        return self.started[process].read_text(errors="replace")

    def answers(self, host: str, other: str, port: int) -> bool:
        """Whether something on another host listens to this one; on itself, on its loopback."""
        address = "127.0.0.1" if host == other else self.address(other)
        return self.run(host, f": < /dev/tcp/{address}/{port}").returncode == 0

    def processes(self, host: str, pattern: str) -> list[str]:
        """The command lines there that match a regular expression."""
        search = self.command(host, "pgrep", "--full", "--list-full", pattern)
        return subprocess.run(search, capture_output=True, text=True, check=False).stdout.splitlines()

    def end(self) -> None:
        """Everything away."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def child_of(pid: int) -> int:
    """The one child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
