"""A run is copied to a storage as it goes, and goes on from there on a machine that has never seen it."""

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from onehour.cli import main
from onehour.config import ScaleConfig, TrainConfig
from onehour.data.prepare import prepare
from onehour.errors import InputError, TrainingError
from onehour.recipes.toy import Toy
from onehour.training.keep import keep
from onehour.training.loop import train
from onehour.training.run import Run
from onehour.training.storage import checkpoints_in, fetch, open_storage

CONFIG = dataclasses.replace(Toy().defaults(), num_steps=20, checkpoint_every=4, keep=2)


def train_run(run: Run, storage: str, start: Path | None = None, config: TrainConfig = CONFIG) -> list[str | None]:
    """Train toy, slowly enough that each checkpoint is copied before the next; returns the warnings."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.describe(Toy(), config, ScaleConfig(), prepare(Toy()))
    return [report.warning for report in keep(train(Toy(), config, start), run, config.keep, storage)]


def same_weights(ours: Path, theirs: Path) -> bool:
    one, other = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(params=["folder", "s3"])
def storage(request, tmp_path) -> str:
    return request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "storage")


def test_a_run_goes_on_where_only_its_copy_is(storage, tmp_path):
    first, name = tmp_path / "first", f"toy-{tmp_path.name}"
    assert train_run(Run(first / name), storage) == [None] * CONFIG.num_steps
    assert checkpoints_in(open_storage(storage), name)[-1] == "step_0000020"

    half = Run(tmp_path / "elsewhere" / name)
    assert fetch(storage, name, half.folder.parent) == []
    assert half.recipe().name() == "toy"
    assert len(half.rows()) == 20
    start, _ = half.newest_checkpoint()
    assert start == half.checkpoint_at(20)
    longer = dataclasses.replace(CONFIG, num_steps=30)
    train_run(half, storage, start, longer)
    undisturbed = Run(tmp_path / "undisturbed" / "toy")
    train_run(undisturbed, str(tmp_path / "other"), None, longer)
    assert same_weights(half.checkpoint_at(30), undisturbed.checkpoint_at(30))


def test_the_copies_of_checkpoints_go_as_the_checkpoints_do(tmp_path):
    run = Run(tmp_path / "runs" / "toy")
    train_run(run, str(tmp_path / "storage"), config=dataclasses.replace(CONFIG, evaluate_every=None))
    copied = checkpoints_in(open_storage(str(tmp_path / "storage")), "toy")
    assert copied == [folder.name for folder in run.checkpoints()]
    assert len(copied) == 2


def test_a_damaged_copy_is_named_and_the_one_before_is_used(tmp_path):
    storage = tmp_path / "storage"
    train_run(Run(tmp_path / "runs" / "toy"), str(storage))
    weights = storage / "toy" / "checkpoints" / "step_0000020" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (storage / "toy" / "checkpoints" / "step_0000024").mkdir()  # an upload that has not come to its end
    (warning,) = fetch(str(storage), "toy", tmp_path / "elsewhere")
    assert warning == (
        f"The checkpoint step_0000020 in {storage} is damaged: model.safetensors has other bytes than were written; "
        "the one before it is tried."
    )
    newest, _ = Run(tmp_path / "elsewhere" / "toy").newest_checkpoint()
    assert newest is not None
    assert newest.name == "step_0000016"


def test_a_storage_that_fails_for_a_while_is_told_and_loses_nothing(tmp_path):
    storage, run = tmp_path / "storage", Run(tmp_path / "runs" / "toy")
    warnings = []
    run.folder.mkdir(parents=True)
    run.describe(Toy(), CONFIG, ScaleConfig(), prepare(Toy()))
    for report in keep(train(Toy(), CONFIG), run, None, str(storage)):
        if report.step == 5:  # the checkpoint of step 4 may be on its way
            wait_for((storage / "toy" / "checkpoints" / "step_0000004" / "SHA256SUMS").is_file)
            storage.rename(tmp_path / "unplugged")
            storage.write_text("no folder")
        if report.warning:
            warnings.append(report.warning)
            storage.unlink(missing_ok=True)
    assert warnings[0].startswith(
        f"The checkpoint step_0000008 could not be copied to {storage} (Runs cannot be copied"
    )
    assert len(run.checkpoints()) == 5
    assert checkpoints_in(open_storage(str(storage)), "toy")[-1] == "step_0000020"


def test_a_storage_that_fails_at_the_end_is_an_error_and_resuming_copies_the_run(tmp_path):
    storage, run = tmp_path / "storage", Run(tmp_path / "runs" / "toy")
    storage.write_text("no folder")
    with pytest.raises(
        TrainingError, match=r"step_0000020 could not be copied to .* The run is whole in .*; copy it by: "
    ):
        train_run(run, str(storage))
    assert run.newest_checkpoint()[0] == run.checkpoint_at(20)
    storage.unlink()
    assert train_run(run, str(storage), run.checkpoint_at(20)) == []
    assert checkpoints_in(open_storage(str(storage)), "toy") == ["step_0000020"]


def test_a_storage_that_cannot_be_is_refused_before_there_is_a_run(tmp_path, capsys):
    (tmp_path / "file").touch()
    for asked in (str(tmp_path / "file"), "foo://bucket"):
        with pytest.raises(SystemExit, match="2"):
            main(["train", "toy", "--workers=0", f"--runs={tmp_path / 'runs'}", f"--storage={asked}"])
        assert f"Runs cannot be copied to {asked} (" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "toy-1").exists()


def test_a_run_that_cannot_be_brought_here_is_told(tmp_path):
    train_run(Run(tmp_path / "runs" / "toy"), str(tmp_path / "storage"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"The run toy cannot be brought from .*storage to .*file \(.*File exists"):
        fetch(str(tmp_path / "storage"), "toy", tmp_path / "file")


def test_the_command_line_resumes_from_the_storage(tmp_path, capsys):
    main(["train", "toy", "--workers=0", f"--runs={tmp_path / 'runs'}", f"--storage={tmp_path / 'storage'}"])
    shutil.rmtree(tmp_path / "runs")
    main(["train", "--resume=toy-1", "--workers=0", "--num-epochs=24", f"--runs={tmp_path / 'runs'}",
          f"--storage={tmp_path / 'storage'}"])  # fmt: skip
    assert "resumes    step_0000050" in capsys.readouterr().out


def wait_for(there: Callable[[], bool]) -> None:
    while not there():
        time.sleep(0.01)
