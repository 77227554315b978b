"""What a job of Slurm leaves behind on a node. tests/hosts/test_slurm.py has jobs of a real Slurm."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

CLONE = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="sessions of processes are looked up as Linux has them")
def test_a_node_whose_raylet_ended_while_ray_started_keeps_no_other_process_of_it(tmp_path):
    """As where the head is killed in the midst: ray start has left a log monitor, and its raylet has gone."""
    ray, left = tmp_path / "ray", tmp_path / "left"
    ray.write_text(f"#!/bin/bash\nsleep 1000 &\necho $! > {left}\n")
    ray.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HEAD": "127.0.0.1"}
    subprocess.run(
        ["bash", "clusters/slurm/ray.sh", str(os.getpid())], cwd=CLONE, env=environment, timeout=60, check=False
    )
    assert not psutil.pid_exists(int(left.read_text()))
