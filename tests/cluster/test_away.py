"""Nodes that share no folder with the driver, only a storage: the run is trained there, and comes back here."""

import dataclasses
import os
import subprocess
import sys
import time

import pytest

from onehour.cluster.connect import stay_on_loopback
from onehour.cluster.launch import train_on_ray
from onehour.config import ScaleConfig
from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.recipe import find_recipe
from onehour.recipes.toy import Toy
from onehour.training.checkpoint import read_facts
from onehour.training.loop import train
from onehour.training.record import examine, read_record
from onehour.training.run import create_run
from onehour.training.storage import checkpoints_in, open_storage

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a node with mounts of its own takes root on Linux"
)

SLOW = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from onehour.recipes.toy import Toy

CALLS = []

@dataclass(frozen=True)
class Slow(Toy):
    seen: str = ""  # where the file is that tells of a trouble: it comes once
    trouble: str = ""

    def loss(self, model, batch):
        time.sleep(0.02)
        CALLS.append(1)
        if self.trouble and len(CALLS) == 35 and os.environ["RANK"] == "1" and not Path(self.seen).exists():
            Path(self.seen).touch()
            if self.trouble == "hang":
                time.sleep(1000)
            raise ArithmeticError("seven is not a number")
        return super().loss(model, batch)
"""


NODE = """
import sys
from onehour.cluster.connect import stay_on_loopback
from ray._private.node import Node
from ray._private.parameter import RayParams

stay_on_loopback()
params = RayParams(gcs_address=sys.argv[1], node_ip_address="127.0.0.1", num_cpus=2, object_store_memory=10**8,
                   include_log_monitor=False,
                   node_manager_port=0, dashboard_agent_listen_port=None, min_worker_port=0, max_worker_port=0)
Node(params, head=False, shutdown_at_exit=True, spawn_reaper=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of the runs, of which each node has another one."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def cluster(runs):
    """A head without CPUs, where the driver is, and two nodes on which `runs` is another, empty folder."""
    import ray
    from ray.cluster_utils import Cluster

    stay_on_loopback()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    mount = f"mount -t tmpfs -o size=8m tmpfs {runs}"
    command = f"{mount} && exec {sys.executable} -c '{NODE}' {cluster.address}"
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    others = []
    for number in (2, 3):  # one after the other: they would choose the same names for their sockets
        others.append(subprocess.Popen(["unshare", "--mount", "sh", "-c", command], stdin=subprocess.PIPE))
        while sum(node["Alive"] for node in ray.nodes()) < number:
            assert others[-1].poll() is None
            time.sleep(0.1)
    yield cluster
    ray.shutdown()
    for other in others:
        other.communicate()
    cluster.shutdown()


def start(runs, folder, storage, **options):
    (folder / "slow.py").write_text(SLOW)
    recipe = find_recipe(str(folder / "slow.py"))(seen=str(folder / "seen"), **options)
    config = dataclasses.replace(
        recipe.defaults(), num_steps=60, global_batch_size=4, checkpoint_every=20, log_every=1, evaluate_every=None,
        audit=True, learning_rate=0.005,
    )  # fmt: skip
    run = create_run(runs, None, "slow")
    scale = ScaleConfig(workers=2, cpus_per_worker=2, hang_timeout="8s", storage=storage)
    run.describe(recipe, config, scale, prepare(recipe))
    reference = [report.metrics["loss"] for report in train(Toy(), dataclasses.replace(config, checkpoint_every=None))]
    return run, reference, train_on_ray(recipe, config, scale, run)


def test_without_a_storage_they_are_refused(runs, cluster, tmp_path):
    _, _, rows = start(runs, tmp_path, None)
    with pytest.raises(InputError, match=r"The node .* cannot take part: .*runs\d+/slow-1 is not seen there; choose a"):
        list(rows)


@pytest.mark.long
@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("raise", "A worker stopped with ArithmeticError: seven is not a number; going on from the newest checkpoint."),
        ("hang", "No step was done in time (--hang-timeout); what the workers were at:\n--- rank_0"),
    ],
)
def test_they_train_by_the_storage_and_lose_nothing(runs, cluster, tmp_path, trouble, told):
    run, reference, rows = start(runs, tmp_path, str(tmp_path / "storage"), trouble=trouble)
    warnings = [row["warning"] for row in rows if "warning" in row]
    assert any(warning.startswith(told) for warning in warnings), warnings
    assert [row["loss"] for row in run.rows()] == pytest.approx(reference, rel=1e-5)
    newest, _ = run.newest_checkpoint()
    assert newest == run.checkpoint_at(60)
    account = examine(read_record(run.audit_file), read_facts(newest)["attempt"], 60)
    assert (account.lost, account.twice, account.wrong, account.num_attempts) == (0, 0, [], 2)
    storage = open_storage(str(tmp_path / "storage"))
    assert checkpoints_in(storage, run.name) == ["step_0000020", "step_0000040", "step_0000060"]
    with storage.open_input_stream(f"{run.name}/metrics.jsonl") as file:
        assert file.read() == run.metrics_file.read_bytes()


def test_a_storage_that_is_another_one_on_each_node_is_refused(runs, cluster, tmp_path):
    _, _, rows = start(runs, tmp_path, str(runs / "storage"))
    with pytest.raises(InputError, match=r"cannot take part: .*storage is another place there than here; give a"):
        list(rows)


def test_a_storage_that_fails_is_told(runs, cluster, tmp_path):
    storage = tmp_path / "storage"
    _, _, rows = start(runs, tmp_path, str(storage))
    while next(rows).get("step") != 30:
        pass
    storage.rename(tmp_path / "unplugged")
    storage.touch()
    with pytest.raises(InputError, match=f"Runs cannot be copied to {storage} "):
        list(rows)
