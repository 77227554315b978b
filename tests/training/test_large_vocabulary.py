"""A vocabulary of 50,257: every way to train gives the losses of a model that computes all logits at once."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy

from onehour.data.prepare import prepare
from onehour.models.loss import LOGITS_AT_ONCE
from onehour.recipes.gpt import GPTRecipe
from onehour.training.loop import train
from onehour.training.memory import estimate_memory
from onehour.training.simulate import peak_of_steps

LICENSE = Path(__file__).parents[2] / "LICENSE"
VOCAB_SIZE = 50_257
OPTIONS = dict(depth=1, context=32, vocab_size=VOCAB_SIZE, text=str(LICENSE))


@dataclass(frozen=True)
class AtOnce(GPTRecipe):
    """The same recipe, and the loss as everybody writes it."""

    def loss(self, model, batch):
        tokens = batch["tokens"].long()
        logits, targets = model(tokens[:, :-1]), tokens[:, 1:]
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view_as(targets).mean(dim=1)


CONFIG = dataclasses.replace(
    GPTRecipe(**OPTIONS).defaults(), num_steps=3, log_every=1, evaluate_every=3, checkpoint_every=None,
    global_batch_size=16, warmup_steps=1,
)  # fmt: skip
WAYS = {
    "as it is": {},
    "accumulated": {"micro_batch_size": 8},
    "checkpointed": {"activation_checkpointing": True},
    "reproducible": {"reproducible": True, "micro_batch_size": 8},
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
}
TOGETHER = ("ddp", "reproducible", "fsdp", "half fsdp")


def losses(recipe: GPTRecipe, **changes) -> torch.Tensor:
    """Of each step, and at last of the held-out text."""
    reports = list(train(recipe, dataclasses.replace(CONFIG, **changes)))
    return torch.tensor([r.metrics["loss"] for r in reports] + [reports[-1].metrics["held_out_loss"]])


def work(rank: int, folder: Path) -> None:
    """One of two workers, which writes down what each way of training by two gave."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    for name in TOGETHER:
        changes = WAYS.get(name) or {"strategy": "fsdp", "precision": "bfloat16"}
        given = losses(GPTRecipe(**OPTIONS), **changes)
        if rank == 0:
            torch.save(given, folder / name)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("together")
    prepare(GPTRecipe(**OPTIONS))
    mp.spawn(work, (folder,), nprocs=2)
    return {name: torch.load(folder / name) for name in TOGETHER}


@pytest.fixture(scope="module")
def at_once() -> torch.Tensor:
    assert CONFIG.global_batch_size // 2 * OPTIONS["context"] * VOCAB_SIZE > LOGITS_AT_ONCE  # several chunks each
    return losses(AtOnce(**OPTIONS))


@pytest.mark.parametrize("name", [name for name in WAYS if name not in ("ddp", "fsdp")])
def test_one_process_has_the_losses_of_all_logits_at_once(name, at_once):
    torch.testing.assert_close(losses(GPTRecipe(**OPTIONS), **WAYS[name]), at_once, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["ddp", "reproducible", "fsdp"])
def test_two_processes_have_them_too(name, together, at_once):
    torch.testing.assert_close(together[name], at_once, rtol=1e-5, atol=0)


def test_reproducible_losses_have_the_same_bits_in_one_process_and_in_two(together):
    assert torch.equal(together["reproducible"], losses(GPTRecipe(**OPTIONS), **WAYS["reproducible"]))


def test_a_tied_matrix_learns_from_both_its_ends():
    both = (losses(recipe(**OPTIONS, tied=True)) for recipe in (GPTRecipe, AtOnce))
    torch.testing.assert_close(*both, rtol=1e-5, atol=0)


def test_in_bfloat16_they_differ_by_its_rounding(together, at_once):
    half = losses(GPTRecipe(**OPTIONS), precision="bfloat16")
    torch.testing.assert_close(half, losses(AtOnce(**OPTIONS), precision="bfloat16"), rtol=2e-3, atol=0)
    torch.testing.assert_close(together["half fsdp"], at_once, rtol=1e-2, atol=0)


def test_a_step_takes_half_the_memory_and_the_plan_leaves_out_no_more_than_a_chunk():
    recipe, rows = GPTRecipe(**OPTIONS), prepare(GPTRecipe(**OPTIONS)).train
    mine, theirs = (peak_of_steps(r, CONFIG, prepare(r))["total"] for r in (recipe, AtOnce(**OPTIONS)))
    assert mine < 0.5 * theirs
    told = estimate_memory(recipe, recipe.build_model(), CONFIG, rows, CONFIG.global_batch_size).total
    assert 0.9 * mine < told + 4 * LOGITS_AT_ONCE < 1.15 * mine
