"""The arithmetic of scaling, against numbers worked out by hand, and the parts of a step."""

import dataclasses

import numpy as np
import pytest

from onehour.data.prepare import prepare
from onehour.recipe import find_recipe
from onehour.training.parts import Parts, measure_parts
from onehour.training.scaling import Model, fit, fit_ring, largest_difference


def parts(compute, exchange=0.0, update=0.1):
    return Parts(data=0.0, compute=compute, waiting=0.0, exchange=exchange, update=update)


def test_a_step_by_hand():
    model = Model(compute=8.0, serial=1.0, gradient_bytes=12.0, bandwidth=6.0, latency=0.25, weak=False)
    assert model.seconds(1) == 9.0
    assert model.seconds(4) == 8 / 4 + 1 + 2 * 3 / 4 * 12 / 6 + 2 * 3 * 0.25
    assert model.speedup(4) == 9.0 / 7.5


def test_a_batch_that_grows_computes_as_long_and_gains_by_samples():
    model = Model(compute=8.0, serial=0.0, gradient_bytes=0.0, bandwidth=1.0, latency=0.0, weak=True)
    assert model.seconds(16) == 8.0
    assert model.speedup(16) == 16.0


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("sizes", [(1, 2, 4, 8), (2, 4)])
def test_the_fit_finds_what_the_measurements_were_made_with(sizes, weak):
    made = Model(compute=2.0, serial=0.1, gradient_bytes=1e6, bandwidth=5e7, latency=0.003, weak=weak)
    ring = {n: 2 * (n - 1) * made.latency + 2 * (n - 1) / n * made.gradient_bytes / made.bandwidth for n in sizes}
    measured = {n: parts(made.compute if weak else made.compute / n, ring[n]) for n in sizes}
    found = fit(measured, made.gradient_bytes, weak)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(made))
    assert found.speedup(512) == pytest.approx(made.speedup(512))


def test_one_size_tells_the_bandwidth_alone_and_none_tells_nothing():
    assert fit_ring({2: 0.5}, 1e6) == (0.0, 0.5e-6)
    assert fit_ring({}, 1e6) == (0.0, 0.0)
    assert fit({1: parts(2.0)}, 1e6, weak=False).seconds(64) == 2 / 64 + 0.1


@pytest.mark.parametrize("exchanged", [{2: 1.0, 4: 0.5}, {2: 0.1, 4: 1.0, 8: 4.0}])
def test_neither_latency_nor_bandwidth_is_ever_negative(exchanged):
    latency, per_byte = fit_ring(exchanged, 1e6)
    assert latency >= 0 and per_byte >= 0 and latency + per_byte > 0


def test_losses_are_compared_step_by_step():
    assert largest_difference({1: [1.0, 2.0], 2: [1.0, 2.002], 4: [1.0, 2.0]}) == pytest.approx(0.002 / 2.002)
    assert largest_difference({1: [1.0, 2.0]}) == 0.0


def test_the_parts_of_a_step_of_one_process():
    recipe = find_recipe("toy")()
    found = measure_parts(recipe, recipe.defaults(), prepare(recipe), num_steps=3)
    times = np.array(dataclasses.astuple(found))
    assert (times >= 0).all() and found.compute > 0 and found.update > 0
    assert found.waiting + found.exchange < found.compute  # there is nobody to wait for
