"""Several Ray nodes on this machine, of which some die, come, or are taken away while a training runs."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from onehour.cluster.connect import stay_on_loopback
from onehour.cluster.launch import train_on_ray
from onehour.config import ScaleConfig
from onehour.data.prepare import prepare
from onehour.recipe import find_recipe
from onehour.recipes.toy import Toy
from onehour.training.checkpoint import read_facts
from onehour.training.loop import train
from onehour.training.record import examine, read_record
from onehour.training.run import create_run

SLOW = """
import time
from dataclasses import dataclass
from onehour.recipes.toy import Toy

@dataclass(frozen=True)
class Slow(Toy):
    def loss(self, model, batch):
        time.sleep(0.02)
        return super().loss(model, batch)
"""


@pytest.fixture
def cluster():
    """A head without CPUs, where the controller and this process are, and two nodes of two CPUs."""
    import ray
    from ray.cluster_utils import Cluster

    stay_on_loopback()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def start(folder, num_steps, workers, **options):
    path = folder / "slow.py"
    path.write_text(SLOW)
    recipe = find_recipe(str(path))()
    config = dataclasses.replace(
        recipe.defaults(), num_steps=num_steps, num_epochs=1, global_batch_size=4, checkpoint_every=20, log_every=1,
        evaluate_every=None, audit=True, learning_rate=0.005,
    )  # fmt: skip
    run = create_run(folder, None, "slow")
    scale = ScaleConfig(workers=workers, cpus_per_worker=1, **options)
    run.describe(recipe, config, scale, prepare(recipe))
    reference = [report.metrics["loss"] for report in train(Toy(), dataclasses.replace(config, checkpoint_every=None))]
    return run, reference, train_on_ray(recipe, config, scale, run)


def account(run):
    facts = read_facts(run.newest_checkpoint()[0])
    return examine(read_record(run.audit_file), facts["attempt"], facts["step"])


def drain(ray, cluster, node):
    subprocess.run(
        [Path(sys.executable).parent / "ray", "drain-node", f"--address={cluster.address}", f"--node-id={node.node_id}",
         "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=60"],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.mark.long
def test_workers_follow_the_nodes_that_go_and_come(tmp_path, cluster):
    """4 workers; a node dies: 2; a node comes: 4; one is taken away with a notice: 2. The loss knows nothing of it."""
    import ray

    first, second = cluster.nodes
    events = [
        (30, lambda: cluster.remove_node(first, allow_graceful=False)),
        (80, lambda: cluster.add_node(num_cpus=2)),
        (400, lambda: drain(ray, cluster, second)),
    ]
    run, reference, rows = start(tmp_path, 500, "1:4", max_failures=1)
    told = []
    for row in rows:
        told.append(row.get("warning"))
        if events and row.get("step", 0) >= events[0][0]:
            events.pop(0)[1]()
    told = [warning for warning in told if warning]

    assert [row["loss"] for row in run.rows()] == pytest.approx(reference, rel=1e-5)
    attempts = read_record(run.audit_file).values()
    assert [attempt.facts["num_workers"] for attempt in attempts] == [4, 2, 4, 2]
    assert told[0].startswith("A node that falls silent is given up after 65 s")
    assert told[1].startswith("A worker died")
    assert any(
        warning == "There is room for 4 workers now: the training is saved and goes on with them." for warning in told
    )
    assert any("is about to be taken away: the workers save and go on without it." in warning for warning in told)
    proven = account(run)
    assert (proven.lost, proven.twice, proven.wrong, proven.num_steps) == (0, 0, [], 500)
    assert proven.done_again < 20  # after the dead node; who leaves with a notice loses nothing
