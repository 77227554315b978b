"""Chapter 2: its checks tell right from wrong, its numbers are the known ones, and its picture is the graph."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from onehour.course import check, pictures
from onehour.course.check.autograd import descend
from onehour.course.pictures.graph import boxes_of

from .answers import wrong


def logistic_regression():
    """The tensors of the chapter, by name; all have shape (1,) but the loss, ()."""
    t = {"x": torch.tensor([1.1]), "y": torch.tensor([1.0])}
    t["w"], t["b"] = torch.tensor([2.2], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    t["z"] = t["x"] * t["w"] + t["b"]
    t["a"] = torch.sigmoid(t["z"])
    t["loss"] = binary_cross_entropy(t["a"], t["y"])
    return t


def test_the_loss_and_the_gradients_of_the_tutorial():
    t = logistic_regression()
    t["loss"].backward()
    found = [f"{value.item():.4f}" for value in (t["loss"], t["w"].grad, t["b"].grad)]
    assert found == ["0.0852", "-0.0898", "-0.0817"]


@pytest.mark.parametrize("answer", [10, 10.0, torch.tensor(10.0), torch.tensor([10]), torch.tensor([[10.00001]])])
def test_right_derivatives(answer):
    assert check.autograd_1(answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [(4.0, "value of the function"), ((torch.tensor(10.0),), "tuple"), (-10, "x.grad"), (torch.ones(2), "one number")],
)
def test_wrong_derivatives(answer, hint):
    assert wrong(check.autograd_1(answer)) and hint in check.autograd_1(answer).hint


def central(f, x, h=1e-4):
    steps = h * torch.eye(len(x), dtype=x.dtype)
    return torch.stack([(f(x + step) - f(x - step)) / (2 * h) for step in steps])


def central_in_place(f, x, h=1e-4):
    gradient = torch.zeros_like(x)
    for i in range(len(x)):
        before = x[i].item()
        x[i] = before + h
        gradient[i] = f(x)
        x[i] = before - h
        gradient[i] -= f(x)
        x[i] = before
    return gradient / (2 * h)


def by_autograd(f, x):
    return torch.autograd.grad(f(x.requires_grad_()), x)[0]


@pytest.mark.parametrize("answer", [central, central_in_place, by_autograd])
def test_right_differences(answer):
    assert check.autograd_2(answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda f, x: central(f, x) * 2,
        lambda f, x, h=1e-4: (f(x + h) - f(x - h)) / (2 * h),  # all entries moved together
        lambda f, x, h=1e-2: torch.stack([(f(x + s) - f(x)) / h for s in h * torch.eye(3, dtype=x.dtype)]),
        lambda f, x: 3 * x**2,  # right for the first function alone
        lambda f, x: central(f, x)[:, None],
    ],
)
def test_wrong_differences(answer):
    assert wrong(check.autograd_2(answer))


def test_twenty_steps_of_gradient_descent_by_a_formula():
    x, y, wb = torch.tensor([-2.0, -1.0, 1.0, 2.0]).double(), torch.tensor([0.0, 1.0, 0.0, 1.0]).double(), [0.0, 0.0]
    for _ in range(20):
        error = torch.sigmoid(wb[0] * x + wb[1]) - y  # the derivative of the loss by w x + b
        wb = [wb[0] - (error * x).mean().item(), wb[1] - error.mean().item()]
    for answer in (wb, tuple(map(torch.tensor, wb)), torch.tensor(wb)):
        assert check.autograd_3(answer)


def test_twenty_steps_by_an_optimizer():
    x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.zero_(), layer.bias.zero_()
    sgd = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(20):
        sgd.zero_grad()
        binary_cross_entropy_with_logits(layer(x)[:, 0], y).backward()
        sgd.step()
    assert check.autograd_3((layer.weight, layer.bias))


def test_wrong_descents():
    assert "added up" in check.autograd_3(descend(zeroing=False)).hint
    assert wrong(check.autograd_3((0.0, 0.0))) and wrong(check.autograd_3(descend(zeroing=True)[:1]))
    assert wrong(check.autograd_3(descend(zeroing=True).flip(0)))


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x + (x.round() - x).detach(),
        lambda x: x - (x - x.round()).detach(),
        lambda x: x.detach().round() + (x - x.detach()),
        StraightThrough.apply,
    ],
)
def test_right_roundings(answer):
    assert check.autograd_4(answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x: x.round(), "no gradient"),
        (lambda x: x.detach().round(), "no graph"),
        (lambda x: x, "values"),
        (lambda x: x.round().detach() * x / x.detach(), "no gradient"),  # a gradient, and a wrong one
        (lambda x: torch.tensor([0.0, 1.0, -2.0, 3.0], requires_grad=True), "no gradient"),
    ],
)
def test_wrong_roundings(answer, hint):
    assert wrong(check.autograd_4(answer)) and hint in check.autograd_4(answer).hint


def test_the_graph_has_what_the_loss_was_computed_from():
    t = logistic_regression()
    boxes = boxes_of(t["loss"], t)
    assert [box.tensor is not None for box in boxes] == [True, True, False, True, False, False, True, False]
    leaves = [box.tensor for box in boxes if box.tensor is not None]
    assert all(found is t[name] for found, name in zip(leaves, "xwby", strict=True))
    assert len(boxes_of(t["loss"], {})) == 6  # without their names, the constants are left out


def test_a_tensor_used_twice_is_one_box():
    v = torch.tensor(3.0, requires_grad=True)
    leaf, product = boxes_of(v * v, {"v": v})
    assert product.inputs == [leaf, leaf]


def test_the_picture_shows_operations_values_and_derivatives():
    t = logistic_regression()
    plain = pictures.graph.draw(t["loss"], **t).data
    for text in ("mul", "add", "sigmoid", "binary cross", "x = 1.1", "w = 2.2", "z = 2.42", "loss = 0.0852"):
        assert text in plain
    assert "-0.0898" not in plain
    with_gradients = pictures.graph.draw_gradients(t["loss"], **t).data
    for text in ("-0.0898", "-0.0817", "-1.0889"):
        assert text in with_gradients
    t["loss"].backward()  # the pictures have left the graph as it was
    assert t["w"].grad is not None
