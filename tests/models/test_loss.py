"""The loss of a large vocabulary: a few tokens at a time, and equal to the plain one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onehour.models.gpt import GPT, GPTConfig
from onehour.models.loss import LOGITS_AT_ONCE, SMALL_VOCABULARY, token_losses

LARGE = 50_257
ROWS = 2 * LOGITS_AT_ONCE // LARGE + 3  # two chunks, and a last one of a few rows


def some(num_rows: int, vocab_size: int, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, an output matrix and targets."""
    torch.manual_seed(0)
    x, weight = torch.randn(num_rows, width), torch.randn(vocab_size, width) * width**-0.5
    return x.requires_grad_(), weight.requires_grad_(), torch.randint(vocab_size, (num_rows,))


def plain(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight).float(), targets, reduction="none")


def with_gradients(function, x: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    """The losses, and the gradients of a sum in which each of them has a weight of its own."""
    losses = function(x, weight, targets)
    return [losses.detach(), *torch.autograd.grad(losses @ torch.linspace(0, 1, len(losses)), [x, weight])]


def error(given: Tensor, right: Tensor) -> float:
    return float((given - right).norm() / right.norm())


def test_losses_and_gradients_are_those_of_all_logits_at_once():
    tensors = some(ROWS, LARGE)
    for given, right in zip(with_gradients(token_losses, *tensors), with_gradients(plain, *tensors), strict=True):
        assert error(given, right) < 1e-6


def test_in_bfloat16_they_are_about_as_exact():
    tensors = some(ROWS, LARGE)
    right = with_gradients(plain, *tensors)
    with torch.autocast("cpu", torch.bfloat16):
        given, at_once = (with_gradients(function, *tensors) for function in (token_losses, plain))
    assert [tensor.dtype for tensor in given] == [torch.float32] * 3
    assert abs(given[0].mean() - right[0].mean()) < 1e-3 * right[0].mean()
    for mine, theirs, exact in zip(given[1:], at_once[1:], right[1:], strict=True):
        assert error(mine, exact) < 2 * error(theirs, exact)


def test_a_small_vocabulary_changes_no_bit():
    tensors = some(100, SMALL_VOCABULARY)
    for given, right in zip(with_gradients(token_losses, *tensors), with_gradients(plain, *tensors), strict=True):
        assert torch.equal(given, right)


def test_no_tokens_have_no_loss():
    x, weight, targets = some(0, LARGE)
    losses = token_losses(x, weight, targets)
    losses.sum().backward()
    assert losses.shape == (0,) and not weight.grad.any()


def test_a_frozen_matrix_gets_no_gradient():
    x, weight, targets = some(ROWS, LARGE)
    right = torch.autograd.grad(plain(x, weight, targets).sum(), x)[0]
    token_losses(x, weight.requires_grad_(False), targets).sum().backward()
    assert weight.grad is None and error(x.grad, right) < 1e-6


@pytest.mark.parametrize("vocab_size", [50, SMALL_VOCABULARY + 1])
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_gives_the_losses_of_its_logits(vocab_size, tied):
    torch.manual_seed(0)
    model = GPT(GPTConfig.from_depth(1, vocab_size=vocab_size, context=8, tied=tied))
    tokens, targets = torch.randint(vocab_size, (2, 3, 8))
    right = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="none").view(3, 8)
    torch.testing.assert_close(model(tokens, targets=targets), right)
    wanted = targets % 2 == 0
    torch.testing.assert_close(model(tokens, wanted=wanted, targets=targets[wanted]), right[wanted])
