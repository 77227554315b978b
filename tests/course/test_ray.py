"""Chapter 9: its checks tell right from wrong, its helpers, and its pictures."""

import numpy as np
import pytest
import torch

from onehour.course import check, pictures
from onehour.course.check.ray import cheapest, max_workers
from onehour.course.processes import Tally, process_id, training_workers

from .answers import wrong


def count_one_by_one(steps):
    seen, again = set(), 0
    for step in steps:
        again += step in seen
        seen.add(step)
    return again


RIGHT = {
    "ray_1": [[1, 2, 3, 4, 5, 6, 10, 12], (12, 10, 6, 5, 4, 3, 2, 1), {1, 2, 3, 4, 5, 6, 10, 12}],
    "ray_2": [range(615, 630), list(range(615, 630)), np.arange(615, 630), torch.arange(615, 630)],
    "ray_3": [
        lambda steps: len(steps) - len(set(steps)),
        count_one_by_one,
        lambda steps: torch.tensor(count_one_by_one(steps)),
    ],
    "ray_4": [301.9, 300, torch.tensor(302.0), np.float64(301.87)],
    "ray_5": [(6, 3), [6, 3], np.array([6, 3])],
}
WRONG = {
    "ray_1": [[1, 2, 3, 4, 5, 6], [1, 2, 7], [0], [60, 1, 2, 3, 4, 5, 6, 10, 12], [1.5], []],
    "ray_2": [range(600, 615), range(615, 629), [], np.arange(4.0) / 3],
    "ray_3": [lambda steps: 0, len, lambda: 1, lambda steps: "two", lambda steps: None, 3],
    "ray_4": [3, 6831, -302, 0, float("nan"), True],
    "ray_5": [(8, 3), (6, 4), (6,), 6],
}


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, answers in RIGHT.items() for answer in answers])
def test_right_answers_are_right(name, answer):
    assert getattr(check, name)(answer)


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, answers in WRONG.items() for answer in answers])
def test_wrong_answers_get_a_hint(name, answer):
    assert wrong(getattr(check, name)(answer))


def test_the_cheapest_interval_is_that_of_youngs_formula():
    found = cheapest(lambda interval: 3 / interval + interval / 2 / 15187.5)
    assert found == pytest.approx((2 * 3 * 15187.5) ** 0.5, rel=1e-3)


def test_workers_do_not_reach_over_nodes():
    assert [max_workers([3, 3, 2], cpus, 60) for cpus in (1, 2, 3)] == [6, 3, 2]


def test_an_actor_remembers_and_there_are_no_training_workers_without_a_training(local_ray):
    import os

    import ray

    tally = ray.remote(num_cpus=0)(Tally).remote()
    assert ray.get([tally.add.remote(number) for number in (1, 10, 100)]) == [1, 11, 111]
    assert ray.get(ray.remote(process_id).remote()) != os.getpid() == process_id()
    assert training_workers() == []


def test_a_run_with_a_fault_is_drawn_with_the_steps_that_were_done_again():
    rows = [{"step": step, **({"checkpoint": True} if step == 2 else {})} for step in (1, 2, 3, 4)]
    seen = [*enumerate(rows), (5, {"warning": "A worker died"}), (8, {"step": 3}), (9, {"step": 4}), (10, {"step": 5})]
    assert "steps done again" in pictures.workers.timeline(seen).data
    assert "steps done again" not in pictures.workers.timeline(seen[:4]).data


def test_the_other_pictures_name_what_they_show():
    assert "rank 3" in pictures.workers.tree(4).data
    assert "two workers" in pictures.workers.losses({"one": [2.0, 1.0], "two workers": [2.0, 1.00001]}).data
