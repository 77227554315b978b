"""Chapter 5: its checks tell right from wrong, and the five points give the losses that it prints."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, nll_loss
from torch.utils.data import DataLoader, TensorDataset

from onehour import MLP, TrainConfig
from onehour.course import check, pictures
from onehour.recipes import toy

from .answers import wrong


def column(columns, name):
    return torch.from_numpy(columns[name])


def test_the_six_losses_of_the_five_points_are_the_known_ones():
    features, labels = column(toy.TRAIN, "features"), column(toy.TRAIN, "label")
    loader = DataLoader(TensorDataset(features, labels), batch_size=2, shuffle=True, num_workers=0, drop_last=True)
    torch.manual_seed(123)
    model = MLP(2, [30, 20], 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(3):
        for batch, targets in loader:
            loss = cross_entropy(model(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(f"{loss.item():.2f}")
    assert losses == ["0.75", "0.65", "0.44", "0.13", "0.03", "0.00"]
    for columns in (toy.TRAIN, toy.TEST):
        assert torch.equal(model(column(columns, "features")).argmax(dim=1), column(columns, "label"))


@pytest.mark.parametrize("answer", [(552, 576), [552.0, 576], torch.tensor([552, 576]), np.array([552, 576])])
def test_the_number_of_steps_is_right(answer):
    assert check.training_1(answer)


@pytest.mark.parametrize("answer", [(576, 552), (23, 24), (574.8, 574.8), (552, 552)])
def test_another_number_of_steps_is_wrong(answer):
    assert wrong(check.training_1(answer))


@pytest.mark.parametrize("answer", [115 / 130, torch.tensor(115 / 130), np.float64(0.884615385)])
def test_the_accuracy_over_all_images_is_right(answer):
    assert check.training_2(answer)


@pytest.mark.parametrize("answer", [(57 / 60 + 54 / 60 + 4 / 10) / 3, 115, 88.46, 0.9])
def test_another_accuracy_is_wrong(answer):
    assert wrong(check.training_2(answer))


@pytest.mark.parametrize("answer", [(7, 4), [7, 4], torch.tensor([7, 4])])
def test_stopping_after_the_seventh_and_keeping_the_fourth_is_right(answer):
    assert check.training_3(answer)


@pytest.mark.parametrize("answer", [(7, 8), (8, 8), (5, 2), (6, 4), (7, 7), (4, 7)])
def test_another_stop_is_wrong(answer):
    assert wrong(check.training_3(answer))


def zero_grad_first(model, optimizer, features, labels):
    optimizer.zero_grad()
    loss = nll_loss(model(features).log_softmax(dim=1), labels)
    loss.backward()
    optimizer.step()
    return loss


def zero_grad_last(model, optimizer, features, labels):
    loss = nn.CrossEntropyLoss()(model(features), labels)
    loss.backward()
    optimizer.step()
    model.zero_grad()
    return torch.tensor([loss.item()])


@pytest.mark.parametrize("answer", [zero_grad_first, zero_grad_last])
def test_a_step_in_another_valid_order_is_right(answer):
    assert check.training_4(answer)


def without_zero_grad(model, optimizer, features, labels):
    loss = cross_entropy(model(features), labels)
    loss.backward()
    optimizer.step()
    return loss


def without_step(model, optimizer, features, labels):
    return cross_entropy(model(features), labels)


def zero_grad_too_late(model, optimizer, features, labels):
    loss = cross_entropy(model(features), labels)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss


def with_a_sum(model, optimizer, features, labels):
    optimizer.zero_grad()
    loss = cross_entropy(model(features), labels, reduction="sum")
    loss.backward()
    optimizer.step()
    return loss


def without_return(model, optimizer, features, labels):
    zero_grad_first(model, optimizer, features, labels)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (without_zero_grad, "what is left in .grad"),
        (without_step, "weights are as before"),
        (zero_grad_too_late, "weights are as before"),
        (with_a_sum, "mean cross-entropy"),
        (without_return, "Return the loss"),
    ],
)
def test_each_mistake_in_a_step_has_its_hint(answer, hint):
    verdict = check.training_4(answer)
    assert wrong(verdict) and hint in verdict.hint


def test_a_check_leaves_the_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check.training_4(zero_grad_first)
    assert torch.equal(torch.rand(1), expected)


def rate(step):
    return 0.01 * (step + 1) if step < 10 else 0.1 * math.cos(math.pi * (step - 10) / 180) ** 2


def test_the_schedule_is_right():
    assert check.training_5(rate)
    assert check.training_5(lambda step: torch.tensor(rate(step)))


@pytest.mark.parametrize(
    "answer",
    [
        lambda step: 0.1,
        lambda step: 0.01 * step if step < 10 else rate(step),
        lambda step: rate(step) if step < 10 else 0.1 * (1 - (step - 10) / 90),
        lambda step: rate(step) if step < 10 else 0.05 * (1 + math.cos(math.pi * step / 100)),
        lambda step: "0.1",
    ],
)
def test_another_schedule_is_wrong(answer):
    assert wrong(check.training_5(answer))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pictures_speak_the_language_of_the_notebook(monkeypatch, language):
    monkeypatch.setenv("ONEHOUR_LANGUAGE", language)
    rows = [(0, 1.0, 1.0), (25, 0.5, 0.6)]
    points = torch.zeros(3, 1)
    drawn = [
        pictures.curves.capacities([(MLP(1, [1], 1), rows), (MLP(1, [8], 1), rows)], points, points),
        pictures.curves.resumed([3, 2], [1.5, 1], [1.5, 1], [1.5, 1.2]),
        pictures.schedules.draw(TrainConfig(warmup_steps=10), 100),
    ]
    words = {"en": ["held-out points", "never stopped", "warm-up"], "zh": ["留出数据", "从未中断", "预热"]}
    assert all(word in picture.data for word, picture in zip(words[language], drawn, strict=True))
