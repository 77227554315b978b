"""The last rung, on the cluster of clusters/laptop/README.md: its own lines start it, are submitted to it, and end it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from onehour.cluster.local import local_cluster
from onehour.recipes.toy import Toy
from onehour.training.loop import train

BIN = Path(sys.executable).parent
CLONE = Path(__file__).parents[2]
LAPTOP, CLUSTERS = ((CLONE / "clusters" / name).read_text() for name in ("laptop/README.md", "README.md"))
LINES = {name: line for name, line in re.findall(r"^\*\*(\w+)\.\*\*.*?\n\n    (onehour [^\n]*)$", LAPTOP, re.M | re.S)}
PATIENCE = 120
MINE = """
from dataclasses import dataclass
from pathlib import Path
import onehour
from onehour.recipes.toy import Toy

@dataclass(frozen=True)
class Mine(Toy):
    def prepare(self, folder):
        print("onehour lies in", onehour.__file__)
        return super().prepare(folder)
"""

FOLLOW = """
import signal, sys
from onehour.cli import main
sys.argv[0] = "__main__.py"  # as python -m onehour does
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, whatever has started these tests
main()
"""


def run(line, folder=CLONE, **env):
    """Run a line of a README in a folder; what it printed, and its exit code."""
    command = shlex.split(line)
    command[0] = str(BIN / command[0])
    if line.startswith("onehour"):
        command[:1] = [sys.executable, "-m", "onehour"]
    return subprocess.run(
        command, cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def cluster_processes(folder):
    """The processes that have the cluster's folder on their command line, as Ray's own have."""
    return [p for p in psutil.process_iter(["cmdline"]) if any(folder in word for word in p.info["cmdline"] or [])]


def is_there(process):
    """Whether it runs. One that has ended may still wait for its parent to take notice."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """What `local_cluster` says of it, and what its start printed."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        started = run(LINES["Start"])
        assert started.returncode == 0, started.stderr
        yield SimpleNamespace(said=started.stdout, **vars(local_cluster()))
        run(LINES["Stop"])


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def of_a_notebook_cell():
    return pytest.approx([report.metrics["loss"] for report in train(Toy(), Toy().defaults())], rel=1e-5)


def test_it_listens_on_loopback_alone_and_its_token_is_for_its_owner(cluster):
    listening = {
        (process.name(), c.laddr.ip)
        for process in cluster_processes(str(cluster.folder))
        for c in process.net_connections()
        if c.status == psutil.CONN_LISTEN
    }
    assert {name for name, _ in listening} >= {"gcs_server", "raylet"}
    assert {address for _, address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert (cluster.folder / "token").stat().st_mode & 0o777 == 0o600
    assert cluster.folder.stat().st_mode & 0o777 == 0o700


def test_what_it_has(cluster):
    said = run(LINES["Watch"])
    assert said.returncode == 0, said.stderr
    assert "node-1  2 of 2 CPUs free\n  node-2  2 of 2 CPUs free\n" in said.stdout


def test_it_is_started_once(cluster):
    again = run(LINES["Start"])
    assert again.returncode == 2
    assert "A cluster of 2 nodes of 2 CPUs runs on this machine already" in again.stderr


def test_a_job_has_the_loss_of_a_notebook_cell(cluster, tmp_path, of_a_notebook_cell):
    (line,) = re.findall(r"^    (ray job submit .*)$", CLUSTERS, re.MULTILINE)
    line = line.replace("http://127.0.0.1:8265", cluster.jobs).replace("train gpt --workers 8", "train toy --workers 2")
    env = dict(word.split("=", 1) for word in re.findall(r"RAY_\w+=\S+", cluster.said))
    done = run(line.replace("/shared/runs", str(tmp_path)), **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 on Ray, on the cluster at 127.0.0.1:" in done.stdout
    assert losses(tmp_path / "toy-1") == of_a_notebook_cell


def test_a_job_from_a_folder_that_is_no_clone(cluster, tmp_path, of_a_notebook_cell):
    done = run(LINES["Submit"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path / "runs" / "toy-1") == of_a_notebook_cell


def test_a_job_that_cannot_be_ends_as_the_training_does(cluster, tmp_path):
    done = run(f"onehour submit -- train toy --workers=9 --global-batch-size=9 --runs={tmp_path}")
    assert done.returncode == 2
    assert "onehour: 9 workers with 1 CPU core each do not fit on 2 nodes with 4 CPU cores" in done.stdout
    assert re.fullmatch(r"onehour: The job \w+ ended with 2\.\n", done.stderr)


def test_a_job_goes_on_when_it_is_no_longer_followed_and_saves_when_it_is_stopped(cluster, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    sent = run("onehour submit --no-follow -- train mine.py --workers=0 --num-epochs=1000000", tmp_path)
    assert sent.returncode == 0, sent.stderr
    (job,) = re.findall(r"^job +(\w+)$", sent.stdout, re.MULTILINE)

    following = subprocess.Popen(
        [sys.executable, "-c", FOLLOW, "jobs", "logs", job], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = ""
    while "step" not in said:
        said += following.stdout.readline()
    assert "py_modules_files" in re.search(r"onehour lies in (.*)", said)[1]  # it came with the job
    following.send_signal(signal.SIGINT)
    _, error = following.communicate(timeout=PATIENCE)
    assert following.returncode == 130
    assert f"The job goes on; follow it again by: onehour jobs logs {job}" in error.replace(
        "python -m onehour", "onehour"
    )
    assert f"{job}  RUNNING " in run(f"onehour jobs status {job}").stdout

    assert f"{job}  STOPPED " in run(f"onehour jobs stop {job}").stdout
    end = run(f"onehour jobs logs {job}")
    assert end.returncode == 130
    assert re.search(r"onehour: Stopped after step [\d,]+, which is saved", end.stdout)
    assert f"  {job}  STOPPED " in run(LINES["Watch"]).stdout


def test_whoever_does_not_have_the_token_gets_one_sentence(cluster, tmp_path):
    elsewhere = {"XDG_STATE_HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    refused = run(f"onehour submit --address {cluster.jobs} -- train toy --runs /shared/runs", **elsewhere)
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        f"onehour: The cluster at {cluster.jobs} did not get the token that it wants; set "
    )
    assert refused.stderr.count("\n") == 1


def test_a_training_of_this_process_finds_the_token(cluster):
    code = (
        "from onehour.cluster.address import cluster_address as find; from onehour.cluster.connect import ray_cluster\n"
    )
    code += "import ray\nwith ray_cluster(find('auto')): print(int(ray.cluster_resources()['CPU']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "4\n", done.stderr


def test_nodes_come_and_one_dies(cluster):
    assert run(LINES["Scale"]).returncode == 0
    assert "node-3  2 of 2 CPUs free" in run(LINES["Watch"]).stdout
    (raylet,) = (p for p in cluster_processes("runtime_env_3") if p.name() == "raylet")
    raylet.kill()
    began = time.monotonic()
    while "node-3  has gone" not in run(LINES["Watch"]).stdout:
        assert time.monotonic() - began < PATIENCE


def test_it_ends_whole(cluster):
    family = cluster_processes(str(cluster.folder))
    names = Counter(process.name() for process in family)
    assert (names["gcs_server"], names["raylet"]) == (1, 2), names  # of three nodes one was killed
    assert run(LINES["Stop"]).returncode == 0
    assert [process for process in family if is_there(process)] == []
    assert not cluster.folder.exists()
    assert local_cluster() is None
    none = run(LINES["Stop"])
    assert (none.returncode, none.stdout) == (
        0,
        "No cluster of onehour runs on this machine; there is nothing to stop.\n",
    )


def test_every_line_of_the_readme_is_run_here():
    assert list(LINES) == ["Start", "Submit", "Watch", "Scale", "Stop"]
    assert len(re.findall(r"^    \S", LAPTOP, re.MULTILINE)) == len(LINES)
