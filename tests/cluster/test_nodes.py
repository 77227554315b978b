"""What would go wrong on a node is said before the work."""

import dataclasses
import time
from pathlib import Path

import pytest

from onehour.cluster import nodes
from onehour.cluster.connect import stay_on_loopback
from onehour.cluster.launch import train_on_ray
from onehour.cluster.nodes import by_node, check_nodes, examine, versions, what_is_wrong
from onehour.config import ScaleConfig
from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.recipes.gpt import GPTRecipe
from onehour.training.loop import train
from onehour.training.run import create_run

FOLDER = Path("/shared/runs/gpt-1")


def answer(**changes):
    here = {"versions": versions(), "time": time.time(), "marker": True, "storage": None, "writable": True, "free": 5e6}
    return here | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"versions": versions() | {"torch": "2.1.0"}}, "torch is 2.1.0 there and "),
        ({"versions": versions() | {"safetensors": "missing"}}, "safetensors is missing there and "),
        ({"versions": versions() | {"onehour": "0.0.1"}}, "onehour is 0.0.1 there and "),
        (
            {"marker": False},
            "/shared/runs/gpt-1 is not seen there; choose a folder that all nodes share by --runs, or give ",
        ),
        ({"writable": False}, "/shared/runs/gpt-1 cannot be written there; change its rights"),
        ({"free": 3e6}, "/shared/runs/gpt-1 has 3 MB free there, and the checkpoints need 4 MB; make room"),
        ({"time": 0.0}, "the clock there is -"),
    ],
)
def test_what_is_wrong_with_a_node(changes, said):
    trouble = what_is_wrong(answer(**changes), versions(), time.time() - 1, FOLDER, room=4e6)
    assert trouble is None if said is None else trouble.startswith(said)


def test_a_marker_is_seen_only_where_it_is(tmp_path):
    (tmp_path / "marker").write_text("marker")
    assert examine(str(tmp_path / "marker"))["marker"]
    assert not examine(str(tmp_path / "other"))["marker"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head whose health checks are quicker than Ray's, and a node that promises cores that are not there.

    The node has a cache of its own, whose folder this is.
    """
    import ray
    from ray.cluster_utils import Cluster

    stay_on_loopback()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_health_check_timeout_ms", "1500")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cache = tmp_path_factory.mktemp("cache-of-the-node")
    cluster.add_node(num_cpus=500, env_vars={"XDG_CACHE_HOME": str(cache)})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    yield cache
    ray.shutdown()
    cluster.shutdown()


def test_what_is_told_of_nodes_that_will_do(tmp_path, cluster):
    run = create_run(tmp_path, "run", "toy")
    (cores, silence), away = check_nodes(run)
    assert away == set()
    assert cores.startswith("The node 127.0.0.1 told Ray of 500 CPU cores where there are ")
    assert silence.startswith("A node that falls silent is given up after 22.5 s")  # 5 x (1.5 s + 3 s)
    assert list(run.folder.iterdir()) == []


def test_every_node_is_asked(tmp_path, cluster, monkeypatch):
    run = create_run(tmp_path, "run", "toy")
    monkeypatch.setattr(nodes, "versions", lambda: {"torch": "9.9"})  # here, and not in the task on the node
    with pytest.raises(InputError, match=r"The node 127\.0\.0\.1 cannot take part: torch is .* there and 9\.9 here"):
        check_nodes(run)
    assert list(run.folder.iterdir()) == []


def test_all_nodes_with_trouble_are_named():
    told = [({"NodeManagerAddress": f"10.0.0.{number}"}, "no." if number < 3 else "never.") for number in (1, 2, 3)]
    assert by_node(told, "say ") == ["The nodes 10.0.0.1 and 10.0.0.2 say no.", "The node 10.0.0.3 say never."]


def test_a_node_that_is_late_is_named(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(nodes, "NODE_SECONDS", 0)
    with pytest.raises(InputError, match=r"The node 127\.0\.0\.1 cannot take part: no answer came in 0 s"):
        check_nodes(create_run(tmp_path, "run", "toy"))


def test_workers_take_the_data_of_the_run_and_do_not_look_for_its_text(tmp_path, cluster):
    (tmp_path / "text.txt").write_text("".join(f"line {number} of a text\n" for number in range(500)))
    recipe = GPTRecipe(text=str(tmp_path / "text.txt"), context=16, depth=1)
    config = dataclasses.replace(recipe.defaults(), num_steps=4, global_batch_size=4, log_every=1)
    run, data = create_run(tmp_path / "runs", None, "gpt"), prepare(recipe)
    run.describe(recipe, config, ScaleConfig(), data)
    (tmp_path / "text.txt").unlink()
    rows = list(train_on_ray(recipe, config, ScaleConfig(workers=2, cpus_per_worker=1), run))
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses == pytest.approx([r.metrics["loss"] for r in train(recipe, config, data=data)], rel=1e-5)
    (taken,) = (path for path in (cluster / "onehour").iterdir() if path.is_dir())
    assert (taken / "train.arrow").read_bytes() == (data.folder / "train.arrow").read_bytes()
