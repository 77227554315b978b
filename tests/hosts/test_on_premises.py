"""clusters/on-premises on real hosts: what its README says is done, over SSH, and a machine loses its power on the way."""

import json
import os
import re
import shlex
import time

import pytest
from lab import CLONE, OPTIONS, PATIENCE, VENV, commands, copy_clone, wait_until

from onehour.training.run import Run

pytestmark = [pytest.mark.clusters, pytest.mark.timeout(3 * PATIENCE)]

README = (CLONE / "clusters/on-premises/README.md").read_text()
MACHINES = ["head", "one", "two"]
TOKEN = {"RAY_AUTH_MODE": "token"}
KEY = {"accessKey": "test-only", "secretKey": "test-only"}
STORAGE = "s3://onehour/runs?allow_bucket_creation=true"


@pytest.fixture(scope="module")
def hosts(lab):
    """A laptop with a clone, a store for an S3 server, and three machines."""
    for machine in MACHINES:
        lab.check(machine, f"ln -s {VENV} ~/venv")
    copy_clone(lab.shared / "clone")
    fill_in(lab, lab.shared / "clone/clusters/on-premises/cluster.yaml")
    lab.check("laptop", "mv /shared/clone ~/onehour")
    yield lab
    for host in ("laptop", "store", *MACHINES):
        lab.power_off(host)


def fill_in(lab, config):
    """The places at the top of cluster.yaml; nothing else of it is changed."""
    text = config.read_text()
    places = {
        "HEAD_IP ": lab.address("head") + " ",
        "WORKER_IP, WORKER_IP": f"{lab.address('one')}, {lab.address('two')}",
        "SSH_USER": "root",
        "SSH_KEY": "~/.ssh/id_ed25519",
    }
    for place, filling in places.items():
        assert place in text
        text = text.replace(place, filling, 1)
    config.write_text(text)


def in_clone(line):
    """The line, in the laptop's clone."""
    return f"cd ~/onehour && {line}"


@pytest.fixture(scope="module")
def s3(hosts):
    """The environment that finds a real S3 server, which is on the store."""
    lab = hosts
    identity = {"name": "test", "credentials": [KEY], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
    (lab.shared / "s3.json").write_text(json.dumps({"identities": [identity]}))
    server = lab.start("store", f"weed server -ip={lab.address('store')} -dir=/tmp -s3 -s3.config=/shared/s3.json")
    wait_until(lambda: lab.answers("laptop", "store", 8333), lambda: lab.said_by(server))
    return {
        "AWS_ENDPOINT_URL": f"http://{lab.address('store')}:8333",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY["accessKey"],
        "AWS_SECRET_ACCESS_KEY": KEY["secretKey"],
    }


@pytest.fixture(scope="module")
def up(lab, s3):
    """The cluster, and its tunnel; the moment at which `ray up` was called."""
    lab.check("laptop", re.search(r"\n\n((?:    [^\n]*\n)+)\n\*\*Start", README)[1])
    began = time.monotonic()
    print(lab.check("laptop", in_clone(commands(README, "Start")[0]), **TOKEN))
    tunnel = lab.start("laptop", in_clone(commands(README, "Submit")[0]), **TOKEN)
    wait_until(lambda: lab.answers("laptop", "laptop", 8265), lambda: lab.said_by(tunnel))
    wait_until(lambda: all(nodes_on(lab, machine) for machine in MACHINES))
    return began


def nodes_on(lab, machine):
    return lab.processes(machine, "raylet/raylet")


class Job:
    """The README's `ray job submit`, with the storage and the steps of this test."""

    def __init__(self, lab, s3):
        self.lab, self.run = lab, Run(lab.shared / "runs/gpt")
        before, given, after = commands(README, "Submit")[1].partition('{"PYTHONPATH": "src"}')
        env = json.dumps(json.loads(given) | {"OMP_NUM_THREADS": "1"} | s3)
        each = os.cpu_count()  # a machine for each worker, however many cores those who run this test have
        more = f"--name=gpt --cpus-per-worker={each} {OPTIONS} --storage={shlex.quote(STORAGE)}"
        self.process = lab.start("laptop", in_clone(f"{before}{env}{after} {more}"), **TOKEN)

    def said(self):
        return self.lab.said_by(self.process)

    def step(self):
        rows = self.run.rows()
        return rows[-1]["step"] if rows else 0

    def reach(self, step):
        """Wait until the training has done `step` steps; returns the moment."""
        wait_until(lambda: self.step() >= step, self.said)
        return time.monotonic()


def test_a_job_goes_on_when_a_machine_loses_its_power(lab, s3, up, undisturbed, capsys):
    submitted = time.monotonic()
    job = Job(lab, s3)
    first = job.reach(1)
    job.reach(50)
    (victim, *_) = (machine for machine in ("one", "two") if lab.processes(machine, "ray::RayTrainWorker"))
    lab.power_off(victim)
    off, at = time.monotonic(), job.step()
    again = job.reach(at + 1)
    lab.on(victim)
    on = time.monotonic()
    assert job.process.wait(timeout=PATIENCE) == 0, job.said()
    assert "A worker died; going on from the newest checkpoint." in job.said()
    assert [row["loss"] for row in job.run.rows()] == undisturbed()
    wait_until(lambda: nodes_on(lab, victim))
    with capsys.disabled():
        print(
            f"\nfrom ray up to the first step {first - up:.0f} s, from ray job submit {first - submitted:.0f} s; training "
            f"again {again - off:.0f} s after a machine lost its power at step {at}; the machine takes part again "
            f"{time.monotonic() - on:.0f} s after it is switched on"
        )


def test_the_storage_has_the_run(lab, s3, up):
    names = f"from onehour.training.storage import *; print(*checkpoints_in(open_storage({STORAGE!r}), 'gpt'))"
    there = lab.check("laptop", in_clone(f"python -c {shlex.quote(names)}"), PYTHONPATH="src", **s3)
    assert there.split()[-1] == "step_0000400"


def test_nobody_gets_in_without_the_tunnel_and_the_token(lab, up):
    assert not lab.answers("laptop", "head", 8265)
    for line in ("job list --address http://localhost:8265", f"status --address {lab.address('head')}:6379"):
        said = lab.run("laptop", f"ray {line}", RAY_AUTH_MODE="disabled")
        assert said.returncode != 0
        assert "authentication" in said.stdout.lower()
    assert {lab.check(host, "stat --format %a ~/.ray/auth_token").strip() for host in ("laptop", *MACHINES)} == {"600"}


def test_the_status_is_that_of_three_machines(lab, up):
    (watch,) = commands(README, "Watch")
    assert "3 local.cluster.node" in lab.check("laptop", in_clone(watch), **TOKEN)


def test_ray_down_leaves_no_process(lab, up, capsys):
    (down,) = commands(README, "Stop")
    lab.check("laptop", "pkill --full '[8]265:localhost'")  # the tunnel
    began = time.monotonic()
    lab.check("laptop", in_clone(down), **TOKEN)
    wait_until(lambda: not any(left(lab).values()), lambda: str(left(lab)))
    with capsys.disabled():
        print(f"all processes are gone {time.monotonic() - began:.0f} s after ray down")


def left(lab):
    """The processes on each machine but those it had at first: its first process, its sshd."""
    at_first = r"^[0-9]+ (bash -c /usr/sbin/sshd|sshd: /usr/sbin/sshd|sleep 3600|ssh: .*\[mux\])"
    return {m: [line for line in lab.processes(m, "") if not re.match(at_first, line)] for m in MACHINES}
