"""A cluster of one machine, as chapter 12 starts it: Ray's own commands, on loopback, behind a token."""

import atexit
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from onehour.cluster.ports import free_ports

BIN = Path(sys.executable).parent  # where the commands ray and python of this environment are
SHORT = "/tmp"  # sockets will lie below, and their paths must be short, which those of macOS's own choice are not
RUNTIME = json.dumps({"env_vars": {"PYTHONPATH": "src"}})  # driver and workers import from the folder that came along


@dataclass(frozen=True)
class Head:
    """A head node that `start` started: its process, the address for jobs, and the environment of who speaks to it."""

    process: subprocess.Popen[bytes]
    jobs: str
    env: dict[str, str]
    folder: Path
    """Token, logs and sockets; it goes when the head stops."""


def start(num_cpus: int = 2) -> Head:
    """A head node on free ports of 127.0.0.1 with `num_cpus` CPUs, whatever the machine has; ready when it returns."""
    folder = Path(tempfile.mkdtemp(prefix="onehour-", dir=SHORT))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    elsewhere = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # another cluster, which Ray's commands would turn to
    env = {name: value for name, value in os.environ.items() if name not in elsewhere} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray replaces the loopback address by the machine's own
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    port, jobs, agent, client = free_ports(4)
    command = [
        *("ray", "start", "--head", "--block", f"--num-cpus={num_cpus}", f"--temp-dir={folder}"),
        *("--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}", f"--dashboard-agent-listen-port={agent}"),
        "--object-store-memory=100000000",
    ]
    with (folder / "start.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    atexit.register(end, process)  # a notebook may be closed before its cell that stops the head
    while not (folder / "ray_current_cluster").is_file():  # Ray's note, which it writes when all has started
        if process.poll() is not None:
            said = (folder / "start.log").read_text()
            shutil.rmtree(folder)
            raise RuntimeError(said)
        time.sleep(0.1)
    return Head(process, f"http://127.0.0.1:{jobs}", env, folder)


def submit(head: Head, clone: Path, name: str, *entrypoint: str) -> str:
    """What `ray job submit` says, run in the clone; it ends when the job has ended, and raises if that failed."""
    command = ["ray", "job", "submit", "--address", head.jobs, "--submission-id", name]
    command += ["--working-dir", ".", "--runtime-env-json", RUNTIME, "--", *entrypoint]
    done = subprocess.run(command, env=head.env, cwd=clone, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def ask(head: Head, path: str) -> Any:
    """What the job server answers to GET /api/`path`, from JSON."""
    token = Path(head.env["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = Request(f"{head.jobs}/api/{path}", headers={"Authorization": f"Bearer {token}"})
    with urlopen(request) as answer:
        return json.load(answer)


def stop(head: Head) -> int:
    """End this head and all that it started, and nothing else; its exit code."""
    code = end(head.process)
    shutil.rmtree(head.folder, ignore_errors=True)
    return code


def end(process: subprocess.Popen[bytes]) -> int:
    """End a process that began a session of its own, and all in that session; its exit code."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    return process.wait(timeout=60)
