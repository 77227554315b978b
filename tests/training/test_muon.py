"""Muon against the singular value decomposition and torch's own Muon, alone and on several workers."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from onehour.config import TrainConfig
from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.models.gpt import GPT, GPTConfig
from onehour.recipes.gpt import GPTRecipe
from onehour.training import muon
from onehour.training.keep import keep
from onehour.training.loop import train
from onehour.training.memory import estimate_memory
from onehour.training.muon import alike, orthogonal
from onehour.training.optim import build_optimizer, layer_matrices
from onehour.training.parallel import share_out
from onehour.training.run import create_run

LICENSE = Path(__file__).parents[2] / "LICENSE"
CONFIG = TrainConfig(optimizer="muon", learning_rate=0.02, weight_decay=0.1)


class OneMatrix(nn.Module):
    """A layer of one matrix, and nothing else."""

    def __init__(self, num_rows: int, num_columns: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(num_columns, num_rows, bias=False)])


def matrix(num_rows: int, num_columns: int, least: float) -> tuple[Tensor, Tensor]:
    """A matrix whose singular values lie evenly between `least` and 1, and the orthogonal one with its vectors."""
    u, _, vt = torch.linalg.svd(torch.randn(num_rows, num_columns), full_matrices=False)
    return 3 * u * torch.linspace(least, 1, min(num_rows, num_columns)) @ vt, u @ vt


@pytest.mark.parametrize("shape", [(16, 16), (24, 40), (40, 24)])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 0.1), (torch.bfloat16, 0.25)])
def test_singular_values_end_near_one_and_the_vectors_stay(shape, dtype, off):
    torch.manual_seed(0)
    given, expected = matrix(*shape, least=0.1)
    made = orthogonal(given[None].to(dtype))[0].float()
    values = torch.linalg.svdvals(made)
    assert (values - 1).abs().max() < off
    torch.testing.assert_close(made, expected, rtol=0, atol=off)
    assert torch.nn.functional.cosine_similarity(made.flatten(), expected.flatten(), dim=0) > 0.995


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-9, 1, 1e9])
def test_one_singular_value_and_none_stay_finite(size, dtype):
    lonely = size * torch.outer(torch.arange(1.0, 9), torch.arange(1.0, 13))
    values = torch.linalg.svdvals(orthogonal(torch.stack([lonely, torch.zeros(8, 12)]).to(dtype)).float())
    assert values[0, 0] == pytest.approx(1, abs=0.2)
    assert values[0, 1:].max() < 0.2
    assert not values[1].any()


def test_together_and_alone_give_the_same_bits():
    torch.manual_seed(0)
    together = torch.randn(5, 24, 40)
    assert all(torch.equal(orthogonal(together[i : i + 1])[0], orthogonal(together)[i]) for i in range(5))


def test_a_matrix_steps_as_with_the_muon_of_torch(monkeypatch):
    # Both with the polynomial that needs long and ends at 1; torch multiplies in bfloat16.
    monkeypatch.setattr(muon, "POLYNOMIALS", [(1.875, -1.25, 0.375)] * 20)
    torch.manual_seed(0)
    ours, theirs = OneMatrix(24, 40), OneMatrix(24, 40)
    theirs.load_state_dict(ours.state_dict())
    mine = build_optimizer(ours, dataclasses.replace(CONFIG, beta1=0.95))
    other = torch.optim.Muon(
        theirs.parameters(), lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw",
        ns_coefficients=(1.875, -1.25, 0.375), ns_steps=20,
    )  # fmt: skip
    before = ours.layers[0].weight.detach().clone()
    for _ in range(3):
        gradient, _ = matrix(24, 40, least=0.3)
        ours.layers[0].weight.grad, theirs.layers[0].weight.grad = gradient.clone(), gradient.clone()
        mine.step()
        other.step()
    moved, expected = (model.layers[0].weight.detach() - before for model in (ours, theirs))
    assert (moved - expected).norm() < 0.03 * expected.norm()


def test_only_matrices_in_layers_are_for_muon():
    model = GPT(GPTConfig.from_depth(2))
    names = {id(p): name for name, p in model.named_parameters()}
    muons = {names[id(p)] for p in layer_matrices(model)}
    assert muons == {name for name in names.values() if name.startswith("layers.") and "norm" not in name}
    groups = build_optimizer(model, CONFIG).param_groups
    assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(names.values())
    assert all(sum(p.numel() for p in group) <= muon.MOST_NUMBERS for group in alike(layer_matrices(model)))


def test_a_model_without_layers_is_refused():
    with pytest.raises(InputError, match="--optimizer muon is for matrices in the layers of a ModuleList"):
        build_optimizer(nn.Linear(2, 2), CONFIG)


def test_its_memory_is_one_moment_of_matrices_and_two_of_the_rest():
    recipe = GPTRecipe(depth=2, context=32, text=str(LICENSE))
    model, config = recipe.build_model(), dataclasses.replace(recipe.defaults(), num_steps=1)
    estimate = estimate_memory(recipe, model, config, prepare(recipe).train, 1)
    *_, report = train(recipe, config)
    kept = [t.numel() * t.element_size() for name, t in report.checkpoint.tensors["optimizer"].items() if t.dim()]
    assert estimate.optimizer == sum(kept)


def test_going_on_from_a_checkpoint_changes_no_bit(tmp_path):
    recipe = GPTRecipe(depth=1, context=32, text=str(LICENSE))
    config = dataclasses.replace(recipe.defaults(), num_steps=8, log_every=1, checkpoint_every=4, evaluate_every=None)
    whole = list(keep(train(recipe, config), create_run(tmp_path, "whole", "gpt")))
    rest = list(train(recipe, config, tmp_path / "whole" / "checkpoints" / "step_0000004"))
    assert [r.metrics["loss"] for r in rest] == [r.metrics["loss"] for r in whole[4:]]


def work(rank: int, world_size: int, folder: Path) -> None:
    """One of several workers, of which each computes a little differently, makes three steps with equal gradients."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=world_size)
    muon.POLYNOMIALS = tuple(tuple(c * (1 + 1e-5 * rank) for c in p) for p in muon.POLYNOMIALS)
    torch.save(three_steps(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def three_steps() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = GPT(GPTConfig.from_depth(1, num_layers=3))
    optimizer = build_optimizer(model, CONFIG)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_workers_that_round_differently_stay_equal(tmp_path):
    mp.spawn(work, (2, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, alone in three_steps().items():
        torch.testing.assert_close(first[name], alone, rtol=1e-3, atol=1e-5)


def test_one_worker_computes_all():
    batch = torch.arange(6.0).view(3, 2)
    assert torch.equal(share_out(torch.neg, batch), -batch)
