"""Chapter 6: its checks tell right from wrong."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from onehour import MLP
from onehour.course import check

from .answers import wrong


@pytest.mark.parametrize("answer", [9024, 9024.0, torch.tensor(9024), np.int64(9024)])
def test_the_bytes_of_weights_and_moments_are_right(answer):
    assert check.saving_1(answer)


@pytest.mark.parametrize("answer", [752, 3008, 6016, 2256, 18048])
def test_another_number_of_bytes_is_wrong(answer):
    assert wrong(check.saving_1(answer))


def weights(seed=123):
    torch.manual_seed(seed)
    return MLP(2, [30, 20], 2).state_dict()


def test_the_state_dict_without_its_prefix_is_right():
    assert check.saving_2(weights())
    assert check.saving_2(dict(weights()))


@pytest.mark.parametrize(
    "answer",
    [
        {f"module.{name}": tensor for name, tensor in weights().items()},
        {name: tensor for name, tensor in weights().items() if "bias" in name},
        dict.fromkeys(weights(), "a"),
        {name: tensor.flatten() for name, tensor in weights().items()},
        weights(seed=7),
        weights() | {3: torch.zeros(1)},
    ],
)
def test_another_state_dict_is_wrong(answer):
    assert wrong(check.saving_2(answer))


def by_hand(path):
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def by_the_library(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def by_the_tensors(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("answer", [by_hand, by_the_library, by_the_tensors])
def test_shapes_read_in_any_way_are_right(answer):
    assert check.saving_3(answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda path: {},
        lambda path: list(by_hand(path)),
        lambda path: {name: shape[::-1] for name, shape in by_hand(path).items()},
        lambda path: {name: 1 for name in by_hand(path)},
        lambda path: {"a": [2, 3]},
    ],
)
def test_other_shapes_are_wrong(answer):
    assert wrong(check.saving_3(answer))


def capture(model, optimizer):
    return copy.deepcopy((model.state_dict(), optimizer.state_dict())), torch.get_rng_state()


def restore(captured, model, optimizer):
    (weights, moments), random = captured
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    torch.random.set_rng_state(random)


def test_a_whole_checkpoint_is_right():
    assert check.saving_4((capture, restore))
    assert check.saving_4([capture, restore])


def capture_views(model, optimizer):
    return (model.state_dict(), optimizer.state_dict()), torch.get_rng_state()


def capture_views_of_moments(model, optimizer):
    return (copy.deepcopy(model.state_dict()), optimizer.state_dict()), torch.get_rng_state()


def capture_with_a_seed(model, optimizer):
    torch.manual_seed(1)
    return capture(model, optimizer)


def restore_without_moments(captured, model, optimizer):
    model.load_state_dict(captured[0][0])
    torch.set_rng_state(captured[1])


def restore_without_random(captured, model, optimizer):
    model.load_state_dict(captured[0][0])
    optimizer.load_state_dict(captured[0][1])


def restore_nothing(captured, model, optimizer):
    pass


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((capture_views, restore), "is a view"),
        ((capture_views_of_moments, restore), "what does Adam remember"),
        ((capture_with_a_seed, restore), "should look and change nothing"),
        ((capture, restore_without_moments), "what does Adam remember"),
        ((capture, restore_without_random), "draw other numbers"),
        ((capture, restore_nothing), "weights do not come back"),
        ((restore, capture), "TypeError"),
    ],
)
def test_each_gap_in_a_checkpoint_has_its_hint(answer, hint):
    verdict = check.saving_4(answer)
    assert wrong(verdict) and hint in verdict.hint


def test_a_check_leaves_the_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check.saving_2({})
    check.saving_4((capture, restore))
    assert torch.equal(torch.rand(1), expected)
