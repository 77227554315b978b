"""Chapter 11: its checks, the attention weights that it draws, and its arithmetic."""

import math

import numpy as np
import pytest
import torch

from onehour import GPT, GPTConfig
from onehour.course import check, pictures
from onehour.course.check import language_model

from .answers import wrong


def top_p(logits, p):
    probabilities, order = logits.softmax(dim=0).sort(descending=True)
    before = probabilities.cumsum(dim=0) - probabilities
    probabilities[before >= p] = 0
    kept = torch.zeros_like(logits).scatter(0, order, probabilities)
    return kept / kept.sum()


def one_too_few(logits, p):
    probabilities, order = logits.softmax(dim=0).sort(descending=True)
    probabilities[probabilities.cumsum(dim=0) > p] = 0
    kept = torch.zeros_like(logits).scatter(0, order, probabilities)
    return kept / kept.sum().clamp(min=1e-9)


def not_scaled(logits, p):
    return top_p(logits, p) * 0.5


def evenly(logits, p):
    kept = (top_p(logits, p) > 0).float()
    return kept / kept.sum()


def fails(logits, p):
    raise ZeroDivisionError


SHARP = math.exp(4) / (math.exp(4) + math.exp(2))


@pytest.mark.parametrize(
    ("number", "answers"),
    [
        (1, [2.5 / math.log(2) * 0.4, torch.tensor(1.4427), np.float64(1.4427)]),
        (2, [[SHARP, 1 - SHARP, 0, 0], torch.tensor([SHARP, 1 - SHARP, 0, 0]), np.array([SHARP, 1 - SHARP, 0, 0])]),
        (3, [8 * 2**30, 8.0 * 2**30, torch.tensor(8 * 2**30)]),
        (4, [8_030_261_248, 8_030_261_248.0]),
        (5, [top_p, language_model.nucleus]),
    ],
)
def test_right_answers_are_right(number, answers):
    for answer in answers:
        assert getattr(check, f"language_model_{number}")(answer), answer


@pytest.mark.parametrize(
    ("number", "answers"),
    [
        (1, [2.5 / math.log(2) / 0.4, 2.5 * 0.4]),
        (2, [[0.88, 0.12, 0.0], [0.644, 0.237, 0.087, 0.032], [0.731, 0.269, 0, 0]]),
        (3, [4 * 2**30, 2**30, 1]),
        (4, [language_model.LLAMA_3_8B, 8_835_567_616, 8e9]),
        (5, [top_p(torch.zeros(5), 0.5), one_too_few, not_scaled, evenly, fails, len, lambda logits, p: logits[:3]]),
    ],
)
def test_wrong_answers_get_a_hint(number, answers):
    for answer in answers:
        assert wrong(getattr(check, f"language_model_{number}")(answer)), answer


def test_the_parameters_are_counted_as_they_were_published():
    assert language_model.num_parameters(language_model.LLAMA_7B) == 6_738_415_616
    assert language_model.num_parameters(language_model.LLAMA_3_8B) == 8_030_261_248


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(123)
    return GPT(GPTConfig.from_depth(2)).eval()


def test_the_weights_drawn_are_those_that_the_model_uses(model):
    tokens = torch.arange(40, 60)
    seen = {}
    attention = model.layers[1].self_attn
    hook = attention.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], y=output))
    found = pictures.attention.weights(model, tokens)
    hook.remove()
    values = attention.split_heads(attention.v_proj(seen["x"]))[0].repeat_interleave(2, dim=0)
    again = attention.o_proj((found[1] @ values).transpose(0, 1).flatten(1))
    torch.testing.assert_close(again, seen["y"][0])


def test_a_token_reads_from_no_later_one(model):
    found = pictures.attention.weights(model, torch.arange(20))
    assert found.shape == (2, 4, 20, 20)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 4, 20))
    assert found.triu(1).eq(0).all()


def test_the_model_is_as_it_was_after_its_attention_was_drawn(model):
    pictures.attention.draw(model, torch.arange(8), list("abcdefgh"))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_losses_are_drawn_with_the_names_of_the_runs():
    assert "depth 7" in pictures.compute.draw({"depth 7": [(1e9, 3.0), (1e10, 2.0)]}).data
