"""Checkpoints: what is in them, what damages them, and what a full disk leaves."""

import errno
import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from onehour.errors import InputError, TrainingError
from onehour.recipes.digits import Digits
from onehour.recipes.toy import Toy
from onehour.training import checkpoint
from onehour.training.checkpoint import load_model, load_random, state_of
from onehour.training.keep import keep
from onehour.training.loop import train
from onehour.training.run import create_run, load_trained, open_run


@pytest.fixture
def run(tmp_path):
    """A run of toy with the checkpoints of step 2 and 4."""
    from dataclasses import replace

    recipe = Toy()
    config = replace(recipe.defaults(), num_steps=4, checkpoint_every=2)
    run = create_run(tmp_path, "toy", "toy")
    list(keep(train(recipe, config), run))
    return run


def test_a_checkpoint_is_safetensors_and_json_with_sums_that_the_system_checks(run):
    folder = run.checkpoint_at(4)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "SHA256SUMS",
        "checkpoint.json",
        "model.safetensors",
        "optimizer.safetensors",
        "random.safetensors",
    ]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    assert set(load_file(folder / "model.safetensors")) == set(Toy().build_model().state_dict())
    facts = json.loads((folder / "checkpoint.json").read_text())
    assert (facts["step"], facts["samples"], facts["recipe"]["name"]) == (4, 8, "toy")


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "checkpoint.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.unlink()], ids=["cut", "flip", "delete"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run, damage, name):
    damage(run.checkpoint_at(4) / name)
    newest, warnings = run.newest_checkpoint()
    assert newest == run.checkpoint_at(2)
    assert str(run.checkpoint_at(4)) in warnings[0]
    assert "is damaged" in warnings[0]


def test_what_is_loaded_is_what_was_saved(run):
    model = Toy().build_model()
    load_model(model, run.checkpoint_at(4))
    saved = load_file(run.checkpoint_at(4) / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_each_worker_gets_its_own_random_state_back(tmp_path):
    states = [{"cpu": torch.full((16,), rank, dtype=torch.uint8)} for rank in range(12)]
    model = torch.nn.Linear(1, 1)
    state_of(model, torch.optim.SGD(model.parameters()), states, {"step": 1}, None).save(tmp_path / "step_0000001")
    for rank in (0, 1, 11):
        (name, found), *more = load_random(tmp_path / "step_0000001", rank).items()
        assert (name, found.tolist(), more) == ("cpu", [rank] * 16, [])


def test_a_checkpoint_of_another_model_is_refused(run):
    with pytest.raises(InputError, match=r"is of another model: .* use the recipe and the options it was trained with"):
        load_model(Digits().build_model(), run.checkpoint_at(4))


def test_a_full_disk_keeps_what_is_there(run, monkeypatch):
    """The disk is full in the middle of the third checkpoint."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    from dataclasses import replace

    config = replace(Toy().defaults(), num_steps=6)
    reports = keep(train(Toy(), config, run.checkpoint_at(4)), run)
    next(reports)
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match=r"The run toy could not be kept in .*No space left on device; make room"):
        list(reports)
    assert run.newest_checkpoint() == (run.checkpoint_at(4), [])
    assert [path.name for path in (run.folder / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_runs_are_never_reused_by_accident(tmp_path):
    assert create_run(tmp_path, None, "toy").name == "toy-1"
    assert create_run(tmp_path, None, "toy").name == "toy-2"
    create_run(tmp_path, "mine", "toy")
    with pytest.raises(InputError, match="go on with it by --resume mine, or choose another --name"):
        create_run(tmp_path, "mine", "toy")
    with pytest.raises(InputError, match=r"There is no run yours in .*; there is none"):
        open_run(tmp_path, "yours")


def test_a_run_without_checkpoint_says_how_to_go_on(tmp_path):
    with pytest.raises(InputError, match="has no good checkpoint yet; go on with: onehour train --resume toy-1"):
        load_trained(create_run(tmp_path, None, "toy"))
