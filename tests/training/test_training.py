"""The loop and its parts in this process, against references that we did not write."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from onehour.config import TrainConfig
from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.recipes.digits import Digits
from onehour.recipes.toy import TRAIN, Toy
from onehour.training.device import Worker
from onehour.training.early_stopping import should_stop
from onehour.training.evaluate import evaluate
from onehour.training.keep import keep
from onehour.training.loop import train
from onehour.training.optim import build_optimizer, learning_rate_at
from onehour.training.parallel import parallelize
from onehour.training.run import create_run

ALONE = Worker(0, 1, torch.device("cpu"))


def test_the_loop_does_what_a_plain_loop_over_the_same_samples_does():
    recipe = Toy()
    config = dataclasses.replace(recipe.defaults(), num_steps=7, global_batch_size=5, momentum=0.9)
    ours = [report.metrics["loss"] for report in train(recipe, config)]

    torch.manual_seed(config.seed)
    model = recipe.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    features, labels = torch.tensor(TRAIN["features"]), torch.tensor(TRAIN["label"])
    theirs = []
    for _ in range(7):  # a batch of five is all five samples, in whatever order
        loss = nn.functional.cross_entropy(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("micro_batch_size", [1, 5, 30, None])
def test_accumulation_changes_nothing(micro_batch_size):
    recipe = Digits()
    config = dataclasses.replace(recipe.defaults(), num_steps=5, global_batch_size=30, log_every=1, evaluate_every=None)
    accumulated = dataclasses.replace(config, micro_batch_size=micro_batch_size)
    ours, whole = ([r.metrics["loss"] for r in train(recipe, c)] for c in (accumulated, config))
    assert ours == pytest.approx(whole, rel=1e-5)


def test_loader_processes_change_no_bit():
    recipe = Digits()
    config = dataclasses.replace(recipe.defaults(), num_steps=4, log_every=1, evaluate_every=None)
    several = dataclasses.replace(config, num_loader_processes=2)
    ours, alone = ([r.metrics["loss"] for r in train(recipe, c)] for c in (several, config))
    assert ours == alone


def test_going_on_from_a_checkpoint_changes_no_bit(tmp_path):
    recipe = Digits()
    config = dataclasses.replace(recipe.defaults(), num_steps=8, log_every=1, evaluate_every=2, checkpoint_every=4)
    whole = list(keep(train(recipe, config), create_run(tmp_path, "whole", "digits")))
    start = tmp_path / "whole" / "checkpoints" / "step_0000004"
    rest = list(train(recipe, config, start))
    assert [r.step for r in rest] == [5, 6, 7, 8]
    assert [r.metrics["loss"] for r in rest] == [r.metrics["loss"] for r in whole[4:]]
    assert rest[-1].metrics["held_out_loss"] == whole[-1].metrics["held_out_loss"]


def test_early_stopping_ends_the_run_with_a_checkpoint():
    recipe = Toy()
    config = dataclasses.replace(recipe.defaults(), num_steps=50, evaluate_every=1, patience=3, learning_rate=1e-12)
    reports = list(train(recipe, config))
    assert reports[-1].step < 50
    assert reports[-1].checkpoint is not None


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [([3, 2, 1], 2, False), ([1, 2, 3], 2, True), ([2, 2, 2], 2, True), ([1, 2], 2, False), ([1, 2, 3], None, False)],
)
def test_should_stop(losses, patience, expected):
    assert should_stop(losses, patience) is expected


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_is_what_torch_has(schedule):
    config = TrainConfig(learning_rate=0.1, schedule=schedule, warmup_steps=5)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 5, 1, total_iters=4)
    after = {
        "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20),
        "linear": torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=20),
        "constant": torch.optim.lr_scheduler.ConstantLR(optimizer, 1),
    }[schedule]
    theirs = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, after], [5])
    for step in range(25):
        assert learning_rate_at(step, 25, config) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6), step
        optimizer.step()
        theirs.step()


def test_only_matrices_decay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Linear(3, 4))
    groups = build_optimizer(model, TrainConfig(weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [[p.dim() for p in group["params"]] for group in groups] == [[4, 2], [1, 1, 1, 1]]


def test_evaluation_is_the_mean_over_all_held_out_samples():
    recipe = Digits()
    data = prepare(recipe)
    torch.manual_seed(0)
    model = recipe.build_model()
    whole = data.held_out[range(len(data.held_out))]
    logits = model(whole["image"])
    expected = nn.functional.cross_entropy(logits, whole["label"]).item()
    for size in (7, 60, 1000):
        config = TrainConfig(micro_batch_size=size)
        metrics = evaluate(recipe, model, data, config, ALONE)
        assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
        assert metrics["accuracy"] == (logits.argmax(1) == whole["label"]).double().mean().item()


def test_strategies():
    model = nn.Linear(2, 2)
    assert parallelize(model, "auto", ALONE) is model
    assert isinstance(parallelize(model, "dp", ALONE), nn.DataParallel)
    with pytest.raises(InputError, match="--strategy dp is for one worker, and there are 2; use --strategy ddp"):
        parallelize(model, "dp", Worker(0, 2, torch.device("cpu")))


def test_a_compiled_model_has_the_losses_and_the_names_of_one_that_is_not():
    config = TrainConfig(num_steps=5, log_every=1, global_batch_size=4)
    *_, last = train(Toy(), dataclasses.replace(config, compile=True))
    *_, plain = train(Toy(), config)
    assert last.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-5)
    assert last.checkpoint.tensors["model"].keys() == plain.checkpoint.tensors["model"].keys()


def test_what_a_machine_or_a_strategy_cannot_do_is_told(monkeypatch):
    with pytest.raises(
        InputError, match=r"--precision tf32 is of NVIDIA GPUs, and this is cpu; use float32 or bfloat16\."
    ):
        list(train(Toy(), TrainConfig(precision="tf32", device="cpu")))
    with pytest.raises(InputError, match="--offload is for a model whose parts are spread over workers"):
        TrainConfig(offload=True)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(
        InputError, match=r"--compile takes a C\+\+ compiler, and neither g\+\+ nor clang\+\+ is found here"
    ):
        list(train(Toy(), TrainConfig(compile=True, device="cpu")))


def test_bfloat16_trains_nearly_as_float32():
    recipe = Digits()
    config = dataclasses.replace(recipe.defaults(), num_steps=20, log_every=1, evaluate_every=None)
    half = dataclasses.replace(config, precision="bfloat16")
    ours, full = ([r.metrics["loss"] for r in train(recipe, c)][-1] for c in (half, config))
    assert ours == pytest.approx(full, rel=0.05)
    assert not math.isclose(ours, full, rel_tol=1e-6)
