"""Chapter 7: its checks tell right from wrong, and its meter counts what graphs keep."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from onehour import GPT, GPTConfig
from onehour.course import check, pictures
from onehour.course.kept import kept_by_graphs
from onehour.training.memory import Memory

from .answers import wrong


def num_parameters():
    return sum(p.numel() for p in GPT(GPTConfig.from_depth(12)).parameters())


def test_bytes_of_a_large_model():
    n = num_parameters()
    for right in (16 * n, float(16 * n), torch.tensor(16 * n)):
        assert check.one_gpu_1(right)
    for missing in (4 * n, 8 * n, 12 * n):
        assert "Something is missing" in check.one_gpu_1(missing).hint
    assert wrong(check.one_gpu_1(16 * n + 1))


def test_the_largest_micro_batch():
    for right in ((12, 10), [12, 10], torch.tensor([12, 10])):
        assert check.one_gpu_2(right)
    for answer, hint in [((13, 10), "global batch"), ((15, 8), "do not fit"), ((10, 12), "larger one"), (12, "pair")]:
        assert wrong(check.one_gpu_2(answer)) and hint in check.one_gpu_2(answer).hint


def leaking(model, batches):
    return [cross_entropy(model(x), y) for x, y in batches]


def test_losses_without_their_graphs():
    assert check.one_gpu_3(torch.no_grad()(leaking))
    assert check.one_gpu_3(torch.inference_mode()(leaking))
    assert check.one_gpu_3(lambda model, batches: [loss.item() for loss in leaking(model, batches)])
    assert check.one_gpu_3(lambda model, batches: torch.stack([loss.detach() for loss in leaking(model, batches)]))
    assert "holds its graph" in check.one_gpu_3(leaking).hint
    assert wrong(check.one_gpu_3(lambda model, batches: leaking(model, batches)[0].item()))
    assert wrong(check.one_gpu_3(lambda model, batches: [0.7, 0.7]))
    assert "ZeroDivisionError" in check.one_gpu_3(lambda model, batches: 1 / 0).hint


def accumulate(model, x, y, size, weigh):
    model.zero_grad()
    parts = list(zip(x.split(size), y.split(size), strict=True))
    for some_x, some_y in parts:
        (cross_entropy(model(some_x), some_y) * weigh(len(some_x), len(x), len(parts))).backward()


def test_accumulating_unequal_parts():
    assert check.one_gpu_4(lambda *a: accumulate(*a, lambda part, whole, number: part / whole))
    assert check.one_gpu_4(lambda model, x, y, size: accumulate(model, x, y, 1, lambda part, whole, number: 1 / whole))
    by_parts = check.one_gpu_4(lambda *a: accumulate(*a, lambda part, whole, number: 1 / number))
    assert "smaller last part" in by_parts.hint
    whole = check.one_gpu_4(lambda model, x, y, size: cross_entropy(model(x), y).backward())
    assert "More than" in whole.hint
    assert "backward" in check.one_gpu_4(lambda model, x, y, size: [model(part) for part in x.split(size)]).hint


def test_the_meter_counts_what_graphs_keep_and_no_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    with kept_by_graphs(model) as kept:
        assert kept() == 0
        first = model(x).sum()
        assert kept() == 4 * (5 * 3 + 5 * 4)  # the input and the output of tanh, float32
        second = model(x).sum()
        assert kept() == 4 * (5 * 3 + 2 * 5 * 4)  # the input is the same tensor
        second.backward()
        assert kept() == 4 * (5 * 3 + 5 * 4)
        del first
        assert kept() == 0


def test_the_meter_does_not_change_the_gradient():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(5, 3)
    plain = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    with kept_by_graphs(model):
        metered = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    assert all(map(torch.equal, plain, metered))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_pictures_of_memory(language, monkeypatch):
    monkeypatch.setenv("ONEHOUR_LANGUAGE", language)
    step = pictures.memory.step({1: Memory(10, 40_000_000, 40_000_000, 80_000_000, 20_000_000)}).data
    assert "180 MB" in step
    strategies = pictures.memory.strategies(7e9, [1, 8], gigabytes=80).data
    assert strategies.count(">112<") == 3 and ">14<" in strategies
