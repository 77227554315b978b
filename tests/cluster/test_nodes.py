"""What would go wrong on a node is said before the work."""

import time
from pathlib import Path

import pytest

from onehour.cluster import nodes
from onehour.cluster.nodes import check_nodes, examine, versions, what_is_wrong
from onehour.errors import InputError
from onehour.training.run import create_run

FOLDER = Path("/shared/runs/gpt-1")


def answer(**changes):
    return {"versions": versions(), "time": time.time(), "marker": True, "writable": True} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"versions": versions() | {"torch": "2.1.0"}}, "torch is 2.1.0 there and "),
        ({"versions": versions() | {"safetensors": "missing"}}, "safetensors is missing there and "),
        ({"versions": versions() | {"onehour": "0.0.1"}}, "onehour is 0.0.1 there and "),
        ({"marker": False}, "it does not see /shared/runs/gpt-1; choose a folder that all nodes share by --runs."),
        ({"writable": False}, "it must not write to /shared/runs/gpt-1; change its rights"),
        ({"time": 0.0}, "its clock is -"),
    ],
)
def test_what_is_wrong_with_a_node(changes, said):
    trouble = what_is_wrong(answer(**changes), versions(), time.time() - 1, FOLDER)
    assert trouble is None if said is None else trouble.startswith(said)


def test_a_marker_is_seen_only_where_it_is(tmp_path):
    (tmp_path / "marker").write_text("marker")
    assert examine(str(tmp_path / "marker"))["marker"]
    assert not examine(str(tmp_path / "other"))["marker"]


def test_every_node_is_asked(tmp_path, local_ray, monkeypatch):
    run = create_run(tmp_path, "run", "toy")
    check_nodes(run)
    assert list(run.folder.iterdir()) == []
    monkeypatch.setattr(nodes, "versions", lambda: {"torch": "9.9"})  # here, and not in the task on the node
    with pytest.raises(InputError, match=r"The node 127\.0\.0\.1 cannot take part: torch is .* there and 9\.9 here"):
        check_nodes(run)
    assert list(run.folder.iterdir()) == []
