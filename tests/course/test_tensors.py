"""Chapter 1: its checks tell right from wrong, and its pictures show the numbers that they are given."""

import re

import numpy as np
import pytest
import torch

from onehour.course import check, pictures
from onehour.course.pictures.style import BLUE

from .answers import wrong


@pytest.mark.parametrize(
    "answer",
    [
        torch.arange(1.0, 13.0).reshape(3, 4),
        torch.arange(1, 13).view(3, 4).float(),
        torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], requires_grad=True),
        torch.from_numpy(np.arange(1, 13, dtype=np.float32).reshape(3, 4)),
    ],
)
def test_right_ways_to_count(answer):
    assert check.tensors_1(answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (torch.arange(1, 13).reshape(3, 4), "int64"),
        (torch.arange(1.0, 13.0), "(12,)"),
        (torch.arange(1.0, 13.0).reshape(4, 3), "(4, 3)"),
        (torch.arange(12.0).reshape(3, 4), "first row"),
        (torch.arange(1.0, 13.0).reshape(4, 3).T, "first row"),
    ],
)
def test_wrong_ways_to_count(answer, hint):
    assert wrong(check.tensors_1(answer)) and hint in check.tensors_1(answer).hint


def by_where(readings):
    there = ~readings.isnan()
    return torch.where(there, readings, 0).sum(dim=0) / there.sum(dim=0)


def by_columns(readings):
    return torch.stack([column[~column.isnan()].mean() for column in readings.T])


@pytest.mark.parametrize("answer", [by_where, by_columns, lambda x: x.nanmean(dim=0), lambda x: x.double().nanmean(0)])
def test_right_means_of_what_is_there(answer):
    assert check.tensors_2(answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x.mean(dim=0),
        lambda x: x.nan_to_num().mean(dim=0),  # divides by all readings
        lambda x: x.nanmean(dim=1),
        lambda x: x.nanmean(),
        lambda x: x.nanmean(dim=0, keepdim=True),
        lambda x: (x * ~x.isnan()).sum(dim=0) / (~x.isnan()).sum(dim=0),
    ],
)
def test_wrong_means_of_what_is_there(answer):
    assert wrong(check.tensors_2(answer))


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x.permute(0, 3, 1, 2).to(torch.float32) / 255,
        lambda x: x.movedim(-1, 1) / 255,
        lambda x: torch.einsum("bhwc->bchw", x.float()).div_(255),
        lambda x: x.float().mul(1 / 255).transpose(2, 3).transpose(1, 2).contiguous(),
    ],
)
def test_right_images(answer):
    assert check.tensors_3(answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x: x.permute(0, 3, 1, 2) / 256, "255"),
        (lambda x: x.permute(0, 3, 1, 2).float(), "255"),
        (lambda x: x.reshape(2, 3, 4, 5) / 255, "permute"),
        (lambda x: x / 255, "(2, 4, 5, 3)"),
        (lambda x: x.permute(0, 3, 1, 2), "uint8"),
        (lambda x: x.permute(0, 3, 1, 2).double() / 255, "float64"),
    ],
)
def test_wrong_images(answer, hint):
    assert wrong(check.tensors_3(answer)) and hint in check.tensors_3(answer).hint


@pytest.mark.parametrize(
    "answer",
    [
        lambda a, b: (a[:, None] - b[None, :]).square().sum(dim=2).sqrt(),
        torch.cdist,
        lambda a, b: (a.unsqueeze(1) - b).norm(dim=-1),
        lambda a, b: (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).sqrt(),
    ],
)
def test_right_distances(answer):
    assert check.tensors_4(answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, b: torch.cdist(b, a), "(4, 5)"),
        (lambda a, b: torch.cdist(a, b) ** 2, "squares"),
        (lambda a, b: torch.cdist(a, b, p=1), "root"),
        (lambda a, b: a - b, "raises RuntimeError"),
    ],
)
def test_wrong_distances(answer, hint):
    assert wrong(check.tensors_4(answer)) and hint in check.tensors_4(answer).hint


def test_a_check_does_not_hand_out_what_it_compares_with():
    assert wrong(check.tensors_2(lambda readings: readings.zero_()[0]))


def text_of(svg):
    """The texts of a picture, in the order in which they are drawn."""
    return [part.split(">")[-1] for part in svg.data.split("</text>")[:-1]]


def test_a_picture_shows_every_number_and_every_shape():
    texts = text_of(pictures.shapes.draw(s=torch.tensor(7), block=torch.arange(10, 34).reshape(2, 3, 4)))
    assert {str(number) for number in range(10, 34)} | {"7", "s", "block"} <= set(texts)


def test_a_broadcast_draws_what_is_added():
    svg = pictures.shapes.broadcast(torch.tensor([[0], [10]]), torch.tensor([1, 2, 3]))
    texts = text_of(svg)
    assert [texts.count(each) for each in ("(2, 1)", "(3,)", "(2, 3)", "13")] == [1, 1, 1, 1]
    assert svg.data.count("stroke-dasharray") == 4 + 3  # of the column 2 x 2 are repeated, of the row 1 x 3


def test_a_view_is_colored_by_where_its_numbers_lie():
    t = torch.arange(6).reshape(2, 3)
    svg = pictures.shapes.memory(t=t, column=t[:, 1])
    assert "stride (3,)" in text_of(svg) and "stride (3, 1)" in text_of(svg)
    cells = re.findall(rf"fill: (#\w+); stroke: {BLUE}", svg.data)
    assert cells[:6] == cells[6:12] and cells[12:] == [cells[1], cells[4]] and len(set(cells)) == 6
