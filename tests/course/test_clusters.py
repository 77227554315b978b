"""Chapter 12: its checks, its arithmetic, its configurations, and the cluster that it starts."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from onehour.course import check, one_node, pictures
from onehour.course.check import clusters

from .answers import wrong

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SPEEDUPS = [1 / (0.02 + 0.98 / n) for n in (1, 2, 4, 8, 16, 32, 64)]
ARGUMENTS = "train gpt --depth 8 --workers 64 --gpu --global-batch-size 512 --checkpoint-every 10m --runs /shared/runs"


@pytest.mark.parametrize(
    ("number", "answers"),
    [
        (1, [12, 12.0, torch.tensor(12)]),
        (2, [0.50625, torch.tensor(0.50625)]),
        (3, [ARGUMENTS, ARGUMENTS.split(), ARGUMENTS.replace("64 --gpu", "64:64 --gpu").replace("-size ", "-size=")]),
        (4, [SPEEDUPS, torch.tensor(SPEEDUPS), tuple(SPEEDUPS)]),
        (5, [(2 * 30 * 43200) ** 0.5, 1610]),
    ],
)
def test_right_answers_are_right(number, answers):
    for answer in answers:
        assert getattr(check, f"clusters_{number}")(answer), answer


@pytest.mark.parametrize(
    ("number", "answers"),
    [
        (1, [13, 26, 0]),
        (2, [0.253125, 0.54, 0.27]),
        (3, [ARGUMENTS.replace("512", "500"), ARGUMENTS.replace(" --gpu", ""), "train gpt --wrokers 64", "gpt", "'", [1, 2]]),
        (4, [[1, 2, 4, 8, 16, 32, 64], SPEEDUPS[1:], 28.3]),
        (5, [26.8, 1610 / 2**0.5, 43200]),
    ],
)  # fmt: skip
def test_wrong_answers_get_a_hint(number, answers):
    for answer in answers:
        assert wrong(getattr(check, f"clusters_{number}")(answer)), answer


def test_what_is_not_divided_limits_the_speed_up():
    assert pictures.scaling.speedup(1, compute=1.96, serial=0.04) == 1
    assert pictures.scaling.speedup(64, compute=1.96, serial=0.04) == pytest.approx(SPEEDUPS[-1])
    assert pictures.scaling.speedup(10**9, compute=1.96, serial=0.04) == pytest.approx(50, rel=1e-3)


def test_a_ring_sends_nothing_alone_and_nearly_twice_the_gradients_among_many():
    times = {"compute": 0.0, "gradient_bytes": 8.0, "bandwidth": 2.0}
    assert [pictures.scaling.step_seconds(n, **times) for n in (1, 2, 4)] == [0, 4, 6]


@pytest.mark.parametrize("num_nodes", [2, 3])
def test_every_worker_has_a_rank_in_the_picture(num_nodes):
    svg = pictures.cluster.draw(num_nodes).data
    assert all(f"rank {rank}<" in svg for rank in range(2 * num_nodes))


def blocks(language, notebook="12_clusters.ipynb"):
    """The code blocks of this language in the chapter's text."""
    cells = json.loads((NOTEBOOKS / notebook).read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_rays_own_validation_takes_the_file_of_ray_up():
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = (yaml.safe_load(block) for block in blocks("yaml") if "cluster_name" in block)
    validate_config(prepare_config(config))


def test_every_pod_of_the_ray_job_sees_the_shared_folder():
    (job,) = (yaml.safe_load(block) for block in blocks("yaml") if "RayJob" in block)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["containers"][0]["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
        assert pod["volumes"][0]["name"] == "shared"


def test_both_languages_show_the_same_configurations():
    for language in ("yaml", "bash"):
        english, chinese = blocks(language), blocks(language, "zh/12_clusters.ipynb")
        assert [re.sub("  +# .*", "", block) for block in english] == [re.sub("  +# .*", "", b) for b in chinese]


def test_shells_read_the_scripts():
    for block in blocks("bash"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_onehour_understands_every_command_of_the_chapter():
    text = "\n".join(blocks("bash") + blocks("yaml")).replace("\\\n", " ")
    commands = re.findall(r"python -m onehour (.*)", text)
    assert len(commands) == 3
    assert all(clusters.parsed(shlex.split(command)) for command in commands)


def test_free_ports_differ():
    assert len(set(one_node.free_ports(5))) == 5


def test_a_head_ends_with_all_that_it_started(tmp_path):
    sleeper = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True, stdout=subprocess.PIPE)
    folder = tmp_path / "head"
    folder.mkdir()
    one_node.stop(one_node.Head(sleeper, "", {}, folder))
    assert sleeper.poll() is not None and not folder.exists()
    assert sleeper.stdout.read() == b""  # which waits until the last of them has let go of it
