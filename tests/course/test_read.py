"""Reading an answer: what counts as a number, as numbers, as a tensor, and as near enough."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from onehour.course.check.read import (
    call,
    has_numbers,
    is_close,
    is_near,
    number,
    numbers,
    raised,
    short,
    whole_numbers,
)

from .answers import NONSENSE, Odd


@pytest.mark.parametrize("read", [number, numbers, whole_numbers, has_numbers, short, call])
def test_nothing_makes_the_readers_raise(read):
    for answer in NONSENSE:
        read(answer)


def test_one_number_whatever_holds_it():
    for answer in (2, 2.0, np.float32(2), np.int8(2), torch.tensor(2), torch.tensor([[2.0]]), Fraction(2)):
        assert number(answer) == 2
    for answer in (
        "1",
        b"1",
        True,
        None,
        1j,
        np.complex64(1),
        [1],
        torch.zeros(2),
        np.bool_(True),
        float("inf"),
        Odd(),
    ):
        assert number(answer) is None


def test_numbers_in_a_row_whatever_holds_them():
    assert numbers(range(3)) == numbers(torch.arange(3)) == numbers((0, 1.0, torch.tensor(2))) == [0, 1, 2]
    for answer in ([1, "2"], torch.ones(2, 2), torch.tensor(1.0), "12", {1, 2}, 1):
        assert numbers(answer) is None
    assert whole_numbers(np.array([1.0, 2.0])) == [1, 2] and whole_numbers([1.5]) is None


def test_what_a_function_gives_may_be_its_exception():
    assert call(max, 1, 2) == 2 and call(7) is None
    assert raised(call(lambda: 1 / 0)).hint == "it raises ZeroDivisionError: division by zero"


def test_what_has_numbers():
    assert has_numbers(torch.ones(2, dtype=torch.bfloat16)) and has_numbers(torch.ones((), dtype=torch.bool))
    assert not has_numbers(torch.ones(2, device="meta")) and not has_numbers([1.0])


def test_near_is_measured_by_the_right_number_or_by_one():
    assert is_near(torch.tensor(1000.5), 1000, 1e-3) and not is_near(1001.5, 1000, 1e-3)
    assert is_near(0.0005, 0, 1e-3) and not is_near(0.0015, 0, 1e-3) and not is_near("0", 0, 1e-3)


def test_close_looks_at_shape_and_values():
    assert is_close(torch.tensor([1, 2]), torch.tensor([1.0, 2.0])) and is_close(1.0, torch.tensor(1.0))
    assert not is_close(torch.ones(1), torch.ones(1, 1)) and not is_close("1", torch.tensor(1.0))
    assert not is_close(torch.tensor([torch.nan]), torch.ones(1))


def test_a_long_text_is_cut():
    assert short(torch.ones(2)) == "Tensor" and short(3, value=True) == "int: 3"
    assert len(short("x" * 1000, value=True)) == 200
