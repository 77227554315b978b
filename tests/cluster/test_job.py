"""The last rung: `ray job submit` from the clone, to a cluster that was started by `ray start`."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onehour.cluster.address import RAY_NOTE, answers
from onehour.recipes.toy import Toy
from onehour.training.loop import train

BIN = Path(sys.executable).parent
CLONE = Path(__file__).parents[2]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address for jobs, and the environment of whoever asks: a head on loopback that wants a token."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    port, jobs = free_port(), free_port()
    head = subprocess.Popen(
        [BIN / "ray", "start", "--head", "--block", "--num-cpus=4", f"--port={port}", "--node-ip-address=127.0.0.1",
         "--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}", "--object-store-memory=100000000"],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while not answers(f"127.0.0.1:{jobs}") and head.poll() is None:
        time.sleep(0.2)
    yield f"http://127.0.0.1:{jobs}", env
    os.killpg(head.pid, signal.SIGTERM)
    head.wait(timeout=60)
    if RAY_NOTE.is_file() and RAY_NOTE.read_text().strip() == f"127.0.0.1:{port}":  # Ray leaves it behind
        RAY_NOTE.unlink()


def submit(cluster, *arguments):
    address, env = cluster
    runtime = json.dumps({"env_vars": {"PYTHONPATH": "src"}})
    return subprocess.run(
        [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--runtime-env-json", runtime, "--",
         "python", "-m", "onehour", *arguments],
        env=env, cwd=CLONE, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def test_a_job_has_the_loss_of_a_notebook_cell(cluster, tmp_path):
    done = submit(cluster, "train", "toy", "--workers=2", f"--runs={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 on Ray, on the cluster at 127.0.0.1:" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "toy-1" / "metrics.jsonl").read_text().splitlines()]
    losses = [report.metrics["loss"] for report in train(Toy(), Toy().defaults())]
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-5)


def test_a_job_that_cannot_be_says_so_and_fails(cluster, tmp_path):
    done = submit(cluster, "train", "toy", "--workers=9", "--global-batch-size=9", f"--runs={tmp_path}")
    assert done.returncode == 1
    assert "onehour: 9 workers with 1 CPU core each do not fit on 1 node with 4 CPU cores" in done.stdout
