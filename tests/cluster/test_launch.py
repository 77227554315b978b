"""Ray: what it cannot do is said before the work, what goes wrong in the work is told once, and a run goes on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onehour.cli import main
from onehour.cluster import address
from onehour.cluster.launch import train_on_ray
from onehour.cluster.preflight import room_on, wait_for_room
from onehour.config import ScaleConfig
from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.recipe import find_recipe
from onehour.recipes.toy import Toy
from onehour.training.run import create_run

MINE = """
from dataclasses import dataclass
from onehour.recipes.toy import Toy

@dataclass(frozen=True)
class Mine(Toy):
    pass
"""


def start(recipe, folder, workers, cpus=0.5, **changes):
    config = dataclasses.replace(recipe.defaults(), num_steps=20, checkpoint_every=5, **changes)
    run = create_run(folder, None, recipe.name())
    scale = ScaleConfig(workers=workers, cpus_per_worker=cpus)
    run.describe(recipe, config, scale, prepare(recipe))
    return run, train_on_ray(recipe, config, scale, run)


@pytest.mark.parametrize(
    ("workers", "cpus", "said"),
    [
        (99, 1, r"99 workers with 1 CPU core each do not fit on 1 node with 8 CPU cores .*; use --workers 8, or let"),
        (1, 50, r"1 workers? with 50 CPU cores each do not fit .*; ask for less for each worker"),
    ],
)
def test_workers_that_do_not_fit_are_refused_at_once(tmp_path, local_ray, workers, cpus, said):
    _, rows = start(Toy(), tmp_path, workers, cpus, global_batch_size=99)
    with pytest.raises(InputError, match=said):
        next(rows)


def test_gpus_that_are_not_there_are_refused(tmp_path, local_ray):
    run = create_run(tmp_path, None, "toy")
    with pytest.raises(InputError, match=r"CPU core and a GPU each do not fit .* 0 GPUs in all"):
        next(train_on_ray(Toy(), Toy().defaults(), ScaleConfig(workers=1, cpus_per_worker=1, gpu=True), run))


def test_the_autoscaler_is_asked_for_room_beside_what_is_in_use(local_ray, monkeypatch):
    """And no longer than it is waited for. tests/hosts/test_pods.py sees the nodes come."""
    import ray

    asked = []

    def request_resources(bundles):
        asked.append(bundles)

    monkeypatch.setattr("onehour.cluster.preflight.request_resources", request_resources)
    busy = ray.remote(num_cpus=3)(type("Busy", (), {"ping": lambda self: None})).remote()
    ray.get(busy.ping.remote())
    waiting = wait_for_room(ScaleConfig(workers="2:9", cpus_per_worker=16), [2, 4, 9], patience=0.5)
    assert next(waiting)["warning"].startswith(
        "Waiting for up to 0.5 s: 2 workers with 16 CPU cores each do not fit on 1 node"
    )
    with pytest.raises(InputError, match=r"Nothing came in 0\.5 s"):
        next(waiting)
    ray.kill(busy)
    assert asked[0] == [{"CPU": 16}] * 9 + [{"CPU": 3.0}]
    assert asked[-1] == []
    asked.clear()
    with pytest.raises(StopIteration):
        next(wait_for_room(ScaleConfig(workers=1), [1], patience=0))
    assert asked == [[]]  # the wish of a program that was killed while it waited is taken back by the next one


@pytest.mark.parametrize(
    ("node", "cpus", "gpu", "room"),
    [({"CPU": 8}, 2, False, 4), ({"CPU": 0.3}, 0.1, False, 3), ({"CPU": 8, "GPU": 2}, 1, True, 2), ({}, 1, False, 0)],
)
def test_room_on_a_node(node, cpus, gpu, room):
    assert room_on(node, cpus, gpu) == room


@pytest.mark.parametrize(
    ("asked", "note", "said"),
    [
        ("auto", None, "No Ray cluster was started on this machine; start one by: onehour cluster start"),
        ("auto", "127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1; start one there"),
        ("ray://127.0.0.1:1", None, "No Ray cluster answers at ray://127.0.0.1:1; start one there"),
    ],
)
def test_a_cluster_that_is_not_there_is_refused_before_there_is_a_run(tmp_path, monkeypatch, capsys, asked, note, said):
    monkeypatch.setattr(address, "RAY_NOTE", tmp_path / "note")
    if note:
        (tmp_path / "note").write_text(note)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "toy", f"--address={asked}", f"--runs={tmp_path}"])
    assert capsys.readouterr().err.startswith(f"onehour: {said}")
    assert not (tmp_path / "toy-1").exists()


def test_a_recipe_file_trains_where_the_file_is_not(tmp_path, local_ray):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    recipe = find_recipe(str(path))()
    path.unlink()
    run, rows = start(recipe, tmp_path, workers=1)
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert run.newest_checkpoint()[0] == run.checkpoint_at(20)


def onehour(folder, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "onehour", "train", *arguments, f"--runs={folder}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def test_a_run_goes_on_at_another_number_of_workers_and_after_control_c(tmp_path):
    """The command line with a Ray of its own: Ctrl-C, then --resume in one process instead of two workers."""
    first = onehour(
        tmp_path, "digits", "--workers=2", "--cpus-per-worker=0.5", "--num-steps=100000", "--checkpoint-every=10",
        "--schedule=constant", start_new_session=True,
    )  # fmt: skip
    checkpoints = tmp_path / "digits-1" / "checkpoints"
    while not list(checkpoints.glob("step_*")) and first.poll() is None:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert f"train --resume digits-1 --runs {tmp_path}" in err
    assert "Traceback" not in out + err

    done = max(int(path.name.partition("_")[2]) for path in checkpoints.glob("step_*"))
    second = onehour(tmp_path, "--resume=digits-1", "--workers=0", f"--num-steps={done + 20}")
    out, err = second.communicate(timeout=120)
    assert (second.returncode, err) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "digits-1" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == done + 20
    assert Path(tmp_path / "digits-1" / "curve.png").stat().st_size > 1000
