"""What the tests on hosts share: where there can be hosts, and what is trained on them."""

import os
import subprocess
import sys

import pytest
from lab import OPTIONS

from onehour.training.run import Run


@pytest.fixture(autouse=True, scope="session")
def can_be():
    """Fail with the reason, and not one by one in a hundred lines, where there can be no hosts."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.exit("make test-clusters makes hosts out of Linux namespaces, which takes Linux and root.", returncode=1)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The losses of a run on this machine, in one process, that nothing happens to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "onehour", "train", "gpt", *OPTIONS.split(), "--workers=0", f"--runs={runs}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [row["loss"] for row in Run(runs / "gpt-1").rows()]
