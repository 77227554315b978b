"""What a node of clusters/aws, clusters/gcp and clusters/on-premises is set up with."""

import os
import re
import shlex
import stat
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement
from ray.scripts.scripts import cli

ROOT = Path(__file__).parents[2]
CLOUDS = ("aws", "gcp")


@pytest.fixture
def node(tmp_path):
    """A machine on which the script has run twice, as Ray does; its pip writes down what it is asked to install."""
    files = {
        "onehour/setup-node.sh": (ROOT / "clusters" / "setup-node.sh").read_text(),
        "onehour/requirements.lock": "",
        ".ray/auth_token": "secret",
        ".bashrc": "alias ll='ls -l'\n",
        "venv/bin/pip": '#!/bin/sh\nprintf "%s\\n" "$@" > ~/asked\n',
        "venv/bin/ray": '#!/bin/sh\necho "mode $RAY_AUTH_MODE"\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755 if name.startswith("venv") else 0o644)
    for _ in range(2):
        command = ["bash", tmp_path / "onehour" / "setup-node.sh", "boto3"]
        subprocess.run(command, env=os.environ | {"HOME": str(tmp_path)}, check=True)
    return tmp_path


def test_a_node_gets_what_onehour_needs_at_the_versions_of_the_lock(node):
    asked = (node / "asked").read_text().split()
    assert asked[asked.index("--constraint") + 1] == "requirements.lock"
    packages = {Requirement(each).name for each in asked[asked.index("requirements.lock") + 1 :]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in ("digits", "bpe", "pretrained", "cluster", "search")]
    needed = sum(extras, project["dependencies"])
    assert packages == {Requirement(each).name for each in needed} | {"boto3"}
    assert "ray[default,train,tune]" in asked


def test_shells_of_a_node_find_ray_and_show_the_token(node):
    assert stat.S_IMODE((node / ".ray" / "auth_token").stat().st_mode) == 0o600
    assert (node / ".bashrc").read_text().count("RAY_AUTH_MODE") == 1
    script = "source ~/.bashrc; ray"  # as Ray starts its commands on a node
    environment = {"HOME": str(node), "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-i", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "mode token\n"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nodes_ask_for_the_token_and_show_no_dashboard(cloud):
    cluster = yaml.safe_load((ROOT / "clusters" / cloud / "cluster.yaml").read_text())
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert re.search(r" RAY_AUTH_MODE=token ray start ", commands[-1])
    assert "--dashboard-host=127.0.0.1 " in cluster["head_start_ray_commands"][-1]
    mounts = cluster["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert all((ROOT / path).is_file() for path in mounts.values())
    locked = {Requirement(line).name for line in (ROOT / "requirements.lock").read_text().splitlines()}
    for kind in ("head", "worker"):
        [setup] = cluster[f"{kind}_setup_commands"]
        assert mounts[setup.split()[1]] == "clusters/setup-node.sh"
        assert locked.issuperset(setup.split()[2:])
    for command in (*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]):
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_readme_calls_ray_as_it_is(cloud):
    text = (ROOT / "clusters" / cloud / "README.md").read_text()
    called = []
    for line in re.findall(r"^ +ray (.*)", text, re.MULTILINE):
        command, words = cli, shlex.split(line)
        while isinstance(command, click.Group):
            called.append(words[0])
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words)  # raises for an option or a number of arguments that is wrong
    assert set(called) == {"up", "dashboard", "job", "submit", "exec", "down"}
