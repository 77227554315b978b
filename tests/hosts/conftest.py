"""What the tests on hosts share: where there can be hosts, the hosts, and what is trained on them."""

import os
import subprocess
import sys

import pytest
from lab import OPTIONS, PATIENCE, Lab

from onehour.training.run import Run

HOSTS = ["laptop", "store", "head", "one", "two", "login", "node1", "node2"]
PACKAGES = ["openssh-server", "rsync", "slurmctld", "slurmd", "slurm-client", "munge"]


@pytest.fixture(autouse=True, scope="session")
def can_be():
    """Fail with the reason, and not one by one in a hundred lines, where there can be no hosts."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.exit("make test-clusters makes hosts out of Linux namespaces, which takes Linux and root.", returncode=1)


@pytest.fixture(scope="session")
def lab(tmp_path_factory, undisturbed):
    """A laptop, a store and three machines for test_on_premises, a login node and two nodes for test_slurm."""
    lab = Lab(tmp_path_factory.mktemp("lab"), HOSTS, PACKAGES)
    yield lab
    lab.end()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A function that waits for the losses of a run on this machine, in one process, that nothing happens to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "onehour", "train", "gpt", *OPTIONS.split(), "--workers=0", f"--runs={runs}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # it is trained while the hosts are made

    def losses():
        assert process.wait(timeout=PATIENCE) == 0
        return [row["loss"] for row in Run(runs / "gpt-1").rows()]

    yield losses
    process.kill()
