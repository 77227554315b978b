"""clusters/slurm under Slurm's own daemons: jobs that are preempted, that cannot be, that are cancelled."""

import re
import time

import pytest
from lab import CLONE, OPTIONS, PATIENCE, VENV, commands, copy_clone, wait_until

from onehour.training.run import Run

pytestmark = [pytest.mark.clusters, pytest.mark.timeout(3 * PATIENCE)]

README = (CLONE / "clusters/slurm/README.md").read_text()
NODES = ["node1", "node2"]
HOSTS = ["login", *NODES]
CONF = """
ClusterName=lab
SlurmctldHost=login(LOGIN)
SlurmUser=root
AuthInfo=cred_expire=5
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
NodeName=node1 NodeAddr=NODE1 CPUs=2
NodeName=node2 NodeAddr=NODE2 CPUs=2
PartitionName=patient Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2
"""  # cred_expire: a job that comes again waits that long
# Slurm looks for these before it reads that it is to use none of them.
CGROUPS = "mount -t tmpfs tmpfs /sys/fs/cgroup && cd /sys/fs/cgroup && mkdir freezer memory cpuset cpu cpuacct devices"


@pytest.fixture(scope="module", autouse=True)
def slurm(lab):
    """A login node, which has Slurm's controller too, and two nodes."""
    copy_clone(lab.shared / "onehour")
    (lab.shared / "onehour/.venv").symlink_to(VENV)
    conf = CONF
    for host in HOSTS:
        conf = conf.replace(host.upper(), lab.address(host))
    (lab.shared / "slurm.conf").write_text(conf)
    (lab.shared / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    for host in HOSTS:
        lab.check(host, "mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd; cp /shared/*.conf /etc/slurm")
        lab.check(host, "install -d -o munge /run/munge && runuser -u munge -- munged")
    lab.check("login", "slurmctld")
    for node in NODES:
        lab.check(node, f"{CGROUPS} && slurmd")
    wait_until(lambda: on_login(lab, "sinfo --noheader --format %D --states idle").strip() == "2")
    yield
    for host in HOSTS:
        lab.power_off(host)


def on_login(lab, line):
    """What a line says in the clone of the login node."""
    return lab.check("login", f"cd /shared/onehour && {line}", OMP_NUM_THREADS="1", PYTHONPATH="/shared/onehour/src")


def submit(nodes):
    """The README's sbatch."""
    return commands(README, "Submit")[0].replace("--nodes 2", f"--nodes {nodes}")


class Job:
    """A job that sbatch has taken."""

    def __init__(self, lab, line, run=None):
        self.lab = lab
        self.number = re.search(r"Submitted batch job (\d+)", on_login(lab, line))[1]
        self.run = run or Run(lab.shared / f"onehour/runs/gpt-{self.number}")

    def facts(self):
        return on_login(self.lab, f"scontrol show job {self.number}")

    def state(self):
        return re.search(r"JobState=(\w+)", self.facts())[1]

    def said(self):
        return (self.lab.shared / f"onehour/slurm-{self.number}.out").read_text()

    def until(self, done):
        """Wait for it; returns the moment."""
        wait_until(done, lambda: self.facts() + self.said())
        return time.monotonic()

    def reach(self, step):
        return self.until(lambda: self.run.rows() and self.run.rows()[-1]["step"] >= step)


def rays(lab):
    """What is left of Ray and of a training on the nodes."""
    return [line for node in NODES for line in lab.processes(node, "ray|onehour train")]


def test_a_run_is_cancelled_goes_on_on_more_nodes_is_preempted_and_comes_again(lab, undisturbed, capsys):
    cancelled = Job(lab, f"{submit(nodes=1)} {OPTIONS}")
    cancelled.reach(20)
    on_login(lab, commands(README, "Stop")[0].replace("JOB", cancelled.number))
    cancelled.until(lambda: on_login(lab, "squeue --noheader") == "")
    assert cancelled.state() == "CANCELLED"
    assert "which is saved" in cancelled.said()
    cancelled.until(lambda: rays(lab) == [])  # the nodes end Ray's helpers after Slurm has let go of them
    at, began = cancelled.run.rows()[-1]["step"], time.monotonic()
    scale = commands(README, "Scale")[0].replace("JOB", cancelled.number).replace("--nodes 4", "--nodes 2")
    job = Job(lab, scale, cancelled.run)
    first = job.reach(at + 1)
    assert all(lab.processes(node, "ray::RayTrainWorker") for node in NODES)
    job.reach(at + 20)
    urgent = time.monotonic()
    on_login(lab, "sbatch --partition urgent --nodes 2 --exclusive --output /dev/null --wrap 'sleep 1'")
    gone = job.until(lambda: job.state() == "PENDING")
    assert rays(lab) == []
    at = job.run.rows()[-1]["step"]
    again = job.reach(at + 1)
    job.until(lambda: job.state() not in ("RUNNING", "COMPLETING"))
    assert "JobState=COMPLETED" in job.facts() and "ExitCode=0:0" in job.facts() and "Restarts=1" in job.facts()
    assert [row["loss"] for row in job.run.rows()] == undisturbed()
    assert rays(lab) == []
    squeue, show = commands(README, "Watch")
    assert "JOBID" in on_login(lab, squeue)
    assert "400" in on_login(lab, show.replace("gpt-JOB", job.run.name))
    with capsys.disabled():
        print(
            f"\nfrom sbatch to the first step {first - began:.0f} s; preempted at step {at}: the nodes are free after "
            f"{gone - urgent:.0f} s, and it trains again after {again - urgent:.0f} s"
        )


def test_a_job_that_cannot_be_has_the_exit_code_of_the_training(lab):
    job = Job(lab, f"{submit(nodes=1)} --learning-rate -1")
    job.until(lambda: job.state() == "FAILED")
    assert "ExitCode=2:0" in job.facts()
    assert "onehour: learning_rate is -1.0; it must be greater than 0." in job.said()


def test_where_slurm_kills_a_job_its_ray_ends_too(lab):
    job = Job(lab, f"{submit(nodes=2)} {OPTIONS}")
    job.until(lambda: lab.processes("node1", "onehour train") and lab.processes("node2", "raylet/raylet"))
    on_login(lab, f"scancel --signal KILL --full {job.number}")
    job.until(lambda: job.state() not in ("RUNNING", "COMPLETING"))
    job.until(lambda: rays(lab) == [])
