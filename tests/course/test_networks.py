"""Chapter 3: its checks tell right from wrong, and its numbers are the known ones."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onehour import MLP
from onehour.course import check, pictures

from .answers import wrong


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_tutorials_networks_have_2213_and_752_parameters():
    sequential = nn.Sequential(nn.Linear(50, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))
    assert count(sequential) == count(MLP(50, [30, 20], 3)) == 2213
    assert count(MLP(2, [30, 20], 2)) == 752


def test_the_loss_of_the_logistic_regression_from_its_logit_is_the_tutorials():
    loss = F.binary_cross_entropy_with_logits(torch.tensor(1.1 * 2.2), torch.tensor(1.0))
    assert round(loss.item(), 4) == 0.0852


@pytest.mark.parametrize("answer", [109_386, 109_386.0, np.int64(109_386), torch.tensor(109_386)])
def test_1_takes_the_number_of_parameters(answer):
    assert check.networks_1(answer)


def test_1_says_what_is_missing():
    assert "bias" in check.networks_1(784 * 128 + 128 * 64 + 64 * 10).hint
    assert wrong(check.networks_1(-3))


class Written(nn.Module):
    """The network of exercise 2 by hand, its layers made in another order."""

    def __init__(self):
        super().__init__()
        self.last, self.first = nn.Linear(8, 3), nn.Linear(4, 8)

    def forward(self, x):
        return self.last(self.first(x).tanh())


class Transposed(nn.Module):
    """And with matrices that stand the other way."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList(torch.rand(shape) for shape in ((4, 8), (8,), (8, 3), (3,)))

    def forward(self, x):
        first, first_bias, last, last_bias = self.weights
        return (x @ first + first_bias).tanh() @ last + last_bias


def sequential():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))


@pytest.mark.parametrize("make", [sequential, lazy, Written, Transposed])
def test_2_takes_any_network_that_computes_it(make):
    assert check.networks_2(make())


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(4, 8), nn.Linear(8, 3)],
        [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)],
        [nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)],
        [nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 3)],
        [nn.Linear(8, 3), nn.Tanh(), nn.Linear(4, 8)],
        [nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), nn.Tanh()],
        [],
    ],
)
def test_2_tells_other_networks_apart(layers):
    assert wrong(check.networks_2(nn.Sequential(*layers)))


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1)])
def test_2_sees_a_softmax_at_the_end(last):
    assert "logits" in check.networks_2(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), last)).hint


def test_3_takes_the_lowest_loss_of_probabilities_as_logits():
    assert check.networks_3(0.5514)
    assert check.networks_3(F.cross_entropy(torch.eye(3), torch.arange(3)))
    assert check.networks_3(float(np.log(1 + 2 / np.e)))


@pytest.mark.parametrize("answer", [0, 0.0, 1.0986, 0.55, 1, float("inf")])
def test_3_has_a_hint_for_other_numbers(answer):
    assert wrong(check.networks_3(answer))


def by_hand(logits, labels):
    shifted = logits - logits.max(dim=1, keepdim=True).values
    log_probabilities = shifted - shifted.exp().sum(dim=1, keepdim=True).log()
    return -sum(log_probabilities[i, label] for i, label in enumerate(labels.tolist())) / len(labels)


@pytest.mark.parametrize(
    "answer",
    [by_hand, F.cross_entropy, lambda z, y: by_hand(z, y).item(), lambda z, y: F.nll_loss(z.log_softmax(1), y)],
)
def test_4_takes_any_cross_entropy_that_stays_finite(answer):
    assert check.networks_4(answer)


def test_4_sees_what_is_wrong():
    overflowing = check.networks_4(lambda z, y: -z.softmax(1)[range(len(y)), y].log().mean())
    assert not overflowing and "1,000" in overflowing.hint
    for reduction in ("sum", "none"):
        verdict = check.networks_4(lambda z, y, r=reduction: F.cross_entropy(z, y, reduction=r))
        assert not verdict and "mean" in verdict.hint
    verdict = check.networks_4(lambda z, y: z.nonsense)
    assert not verdict and "AttributeError" in verdict.hint
    assert wrong(check.networks_4(lambda z, y: F.cross_entropy(z, y) + 0.01))
    assert wrong(check.networks_4(lambda z: z))


def adam(w, g, m, s, t, lr, corrected=True):
    m, s = torch.lerp(m, g, 0.1), torch.lerp(s, g * g, 0.001)
    m_hat, s_hat = (m / (1 - 0.9**t), s / (1 - 0.999**t)) if corrected else (m, s)
    return w - lr * m_hat / (s_hat.sqrt() + 1e-8), m, s


def adam_in_place(w, g, m, s, t, lr):
    m.mul_(0.9).add_(g, alpha=0.1)
    s.mul_(0.999).addcmul_(g, g, value=0.001)
    return w.sub_(lr * (m / (1 - 0.9**t)) / ((s / (1 - 0.999**t)).sqrt() + 1e-8)), m, s


@pytest.mark.parametrize("answer", [adam, adam_in_place, lambda *arguments: list(adam(*arguments))])
def test_5_takes_a_step_of_adam(answer):
    assert check.networks_5(answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda w, g, m, s, t, lr: (w - lr * g, m, s),
        lambda w, g, m, s, t, lr: w - lr * g,
        lambda w, g, m, s, t, lr: adam(w, g, m, s, 1, lr),
        lambda w, g, m, s, t, lr: adam(w, g, m, s, t + 1, lr),
        lambda w, g, m, s, t, lr: (adam(w, g, m, s, t, lr)[0], m, s),
        lambda w, g, m, s, t, lr: adam(w, g, m, s, t, lr, corrected=False),
        lambda w, g: w,
    ],
)
def test_5_tells_other_steps_apart(answer):
    assert wrong(check.networks_5(answer))


def test_the_landscape_has_the_names_of_the_paths_in_it():
    def loss(weights):
        return weights.square().sum(dim=-1)

    paths = {"there": torch.tensor([[1.0, 2.0], [0.5, 1.0]]), "back": torch.tensor([[1.0, 2.0], [2.0, 2.0]])}
    drawn = pictures.landscape.draw(loss, paths, lowest=(0.0, 0.0), names=("up", "down")).data
    assert all(f">{text}<" in drawn for text in ("there", "back", "up", "down", "start"))


def test_the_activations_have_a_panel_each():
    drawn = pictures.activations.draw({"one": torch.relu, "two": torch.tanh}).data
    assert all(f">{text}<" in drawn for text in ("one", "two", "value", "slope"))
