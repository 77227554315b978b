"""Chapter 10: its checks tell right from wrong, and its pictures show every trial."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from onehour.course import check, pictures
from onehour.course.check.search import halving_epochs

from .answers import wrong

RIGHT = {
    "search_1": [30, 30.0, torch.tensor(30), np.int64(30)],
    "search_2": [29, np.ceil(np.log(0.05) / np.log(0.9))],
    "search_3": [
        lambda u: 10 ** (3 * u - 4),
        lambda u: np.exp(np.log(1e-4) + u * np.log(1e3)),
        lambda u: 1e-4 * 1000 ** torch.tensor(u),
    ],
    "search_4": [
        lambda losses, factor: sorted(losses, key=losses.get)[: max(1, len(losses) // factor)],
        lambda losses, factor: tuple(pd.Series(losses).sort_values().index[: max(1, int(len(losses) / factor))]),
    ],
    "search_5": [81, 81.0],
}
WRONG = {
    "search_1": [120, 12, 6.0, [30], True],
    "search_2": [28, 30, 28.4, 1, [29]],
    "search_3": [
        lambda u: 1e-4 + u * (1e-1 - 1e-4),
        lambda u: 10 ** (-1 - 3 * u),
        lambda u: "small",
        lambda: 1e-3,
        lambda u: 1 / 0,
        0.01,
    ],
    "search_4": [
        lambda losses, factor: list(losses),
        lambda losses, factor: sorted(losses, key=losses.get)[: len(losses) // factor],
        lambda losses, factor: sorted(losses, key=losses.get)[-(len(losses) // factor) :],
        lambda losses: [],
        lambda losses, factor: 3,
        ["b", "e"],
    ],
    "search_5": [729, 108, 40, 0, "81"],
}


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, answers in RIGHT.items() for answer in answers])
def test_right_answers_are_right(name, answer):
    assert getattr(check, name)(answer)


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, answers in WRONG.items() for answer in answers])
def test_wrong_answers_get_a_hint(name, answer):
    assert wrong(getattr(check, name)(answer))


def test_survivors_of_a_rung_do_not_begin_again():
    assert halving_epochs(1, 3) == 1
    assert halving_epochs(3, 3) == 3 * 1 + 1 * 2
    assert halving_epochs(27, 3) == 27 + 9 * 2 + 3 * 6 + 1 * 18


def result(steps, losses, rate):
    history = pd.DataFrame({"step": steps, "held_out_loss": losses})
    return SimpleNamespace(
        metrics_dataframe=history,
        metrics={"step": steps[-1], "held_out_loss": losses[-1]},
        config={"learning_rate": rate, "weight_decay": 0.1},
    )


def test_the_pictures_show_every_trial():
    results = [result([9, 27, 81], [2.0, 1.0, 0.5], 0.01), result([9], [2.2], 0.1)]
    assert "stopped here" in pictures.trials.curves(results, num_steps=81, rungs=(9, 27)).data
    assert "stopped here" not in pictures.trials.curves(results[:1], num_steps=81, rungs=(9, 27)).data
    assert "random" in pictures.trials.choices({"random": results}, "learning_rate", "weight_decay").data
    assert "ASHA: 0.300" in pictures.trials.best_so_far({"ASHA": [*results, result([81], [0.3], 0.02)]}).data
    assert "learning rate" in pictures.trials.population([[(0.1, 2.0), (0.2, 1.0)], [(0.4, 0.9), (0.2, 0.8)]], 27).data
