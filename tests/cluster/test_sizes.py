"""onehour scale: real trainings of one and two workers, and what it refuses."""

import json

import pytest
from matplotlib.image import imread

from onehour.cli import main
from onehour.commands.scale import check_losses
from onehour.config import TrainConfig
from onehour.errors import TrainingError
from onehour.training.run import open_run


def test_one_and_two_workers(local_ray, tmp_path, capsys):
    options = ["--workers", "1", "2", "--num-steps", "12", "--log-every", "1", "--simulate", "64,8"]
    main(["scale", "toy", *options, "--runs", str(tmp_path)])
    said, folder = capsys.readouterr().out, tmp_path / "scale-toy-1"
    assert "1 and 2 workers on 1 node" in said and "losses     the same at all sizes, within" in said
    content = json.loads((folder / "scaling.json").read_text())
    sizes = [(one["workers"], one["global_batch_size"], len(one["losses"])) for one in content["sizes"]]
    assert sizes == [(1, 2, 12), (2, 2, 12)]
    assert content["sizes"][1]["parts"]["exchange"] > 0 and content["model"]["gradient_bytes"] == 4 * 752
    table = [line.split() for line in said.splitlines() if line.strip()]
    assert [line[0] for line in table if line[0] in ("1", "2", "8", "64") and line[1] not in ("worker", "workers", "and")] \
        == ["1", "2", "1", "2", "8", "64"]  # fmt: skip
    assert "more workers than the 2 samples of a batch" in said
    main(["runs", "--runs", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["scale-toy-1", "toy", "done", "2/2", "sizes"]
    assert imread(folder / "scaling.png").shape[2] == 4
    assert [row["step"] for row in open_run(folder, "2-workers").rows()] == list(range(1, 13))


def test_a_batch_that_grows_with_the_workers(local_ray, tmp_path, capsys):
    main(["scale", "toy", "--workers", "2", "--weak", "--num-steps", "5", "--runs", str(tmp_path)])
    content = json.loads((tmp_path / "scale-toy-1" / "scaling.json").read_text())
    assert [one["global_batch_size"] for one in content["sizes"]] == [4] and content["model"]["weak"]
    said = capsys.readouterr().out.replace("\n", " ")
    assert "2 samples for each worker" in said and "losses are not compared" in said and "losses  " not in said


def test_what_fails_when_the_parts_are_measured_is_told(local_ray, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import sys\nfrom dataclasses import dataclass\nfrom onehour.recipes.toy import Toy\n"
        "@dataclass(frozen=True)\nclass Mine(Toy):\n"
        "    def loss(self, model, batch):\n"
        "        if any(f.f_code.co_name == 'measure_parts' for f in frames()):\n"
        "            raise ArithmeticError('seven is not a number')\n"
        "        return super().loss(model, batch)\n"
        "def frames(frame=None):\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n        yield frame\n        frame = frame.f_back\n"
    )
    with pytest.raises(SystemExit, match="1"):
        main(["scale", str(tmp_path / "mine.py"), "--workers", "1", "--num-steps", "5", "--runs", str(tmp_path)])
    assert "A worker stopped with ArithmeticError: seven is not a number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--workers 2 1", "workers is 2 1; it must be numbers from 1 on that grow, such as 1 2 4."),
        ("--workers 0 1", "workers is 0 1; it must be numbers from 1 on that grow, such as 1 2 4."),
        ("--workers 1 3", "A global batch of 2 samples does not divide by 3 workers: set global_batch_size to 3."),
        ("--workers 1 100000000000 --weak", "100000000000 workers with 1 CPU core each do not fit on 1 node"),
        ("--simulate 8,²", "simulate is 8,²; it must be numbers of workers, such as 8,64,512,4096."),
        ("--simulate 8,1000000000", "simulate is 8,1000000000; it must be"),
        ("--simulate 8,many", "simulate is 8,many; it must be numbers of workers, such as 8,64,512,4096."),
        ("--strong --weak", "--strong keeps the global batch and --weak lets it grow; choose one of them."),
        ("--strategy fsdp", "--strategy fsdp is not taken apart by onehour scale; use ddp."),
        (
            "--workers 1 64 --global-batch-size 64",
            "64 workers with 1 CPU core each do not fit on 1 node with 8 CPU cores",
        ),
    ],
)
def test_mistakes(options, says, local_ray, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["scale", "toy", *options.split(), "--runs", str(tmp_path)])
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_losses_that_differ_are_told():
    with pytest.raises(TrainingError, match=r"The losses differ by 2.0e-03 between the sizes, relatively, where 1e-05"):
        check_losses(2e-3, TrainConfig())
    check_losses(2e-3, TrainConfig(precision="bfloat16"))
