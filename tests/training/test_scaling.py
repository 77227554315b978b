"""The arithmetic of scaling, against numbers worked out by hand, and the parts of a step."""

import dataclasses
import itertools

import pytest

from onehour.data.prepare import prepare
from onehour.recipe import find_recipe
from onehour.training import parts as parts_module
from onehour.training.parts import Parts, measure_parts
from onehour.training.scaling import Model, fit, fit_ring, largest_difference


def parts(compute=0.0, exchange=0.0, message=0.0, update=0.1):
    return Parts(data=0.0, compute=compute, waiting=0.0, exchange=exchange, message=message, update=update)


def test_a_step_by_hand():
    model = Model(compute=8.0, serial=1.0, gradient_bytes=12.0, seconds_per_byte=1 / 6, latency=0.25, weak=False)
    assert model.seconds(1) == 9.0
    assert model.seconds(4) == pytest.approx(8 / 4 + 1 + 2 * 3 / 4 * 12 / 6 + 2 * 3 * 0.25)
    assert model.speedup(4) == pytest.approx(9.0 / 7.5)
    assert model.amdahl().speedup(4) == 9.0 / 3.0


def test_a_batch_that_grows_computes_as_long_and_gains_by_samples():
    model = Model(compute=8.0, serial=0.0, gradient_bytes=0.0, seconds_per_byte=0.0, latency=0.0, weak=True)
    assert model.seconds(16) == 8.0
    assert model.speedup(16) == 16.0


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("sizes", [(1, 2, 4, 8), (2, 4), (1, 2)])
def test_the_fit_finds_what_the_measurements_were_made_with(sizes, weak):
    made = Model(compute=2.0, serial=0.3, gradient_bytes=1e6, seconds_per_byte=2e-8, latency=0.003, weak=weak)
    message = {n: 2 * (n - 1) * made.latency for n in sizes}
    ring = {n: message[n] + 2 * (n - 1) / n * made.gradient_bytes * made.seconds_per_byte for n in sizes}
    measured = {n: parts(made.compute if weak else made.compute / n, ring[n], message[n]) for n in sizes}
    found = fit(measured, made.gradient_bytes, weak, rest=0.2)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(made))
    assert found.speedup(512) == pytest.approx(made.speedup(512))


def test_where_nothing_was_exchanged_an_exchange_costs_nothing():
    assert fit_ring({}, 1e6) == (0.0, 0.0)
    assert fit({1: parts(2.0)}, 1e6, weak=False).seconds(64) == 2 / 64 + 0.1


def test_parts_that_overlap_take_nothing_from_what_is_not_divided():
    assert fit({1: parts(2.0)}, 1e6, weak=False, rest=-0.5).serial == 0.1


@pytest.mark.parametrize("exchanged", [{2: (0.1, 0.05), 4: (0.1, 0.09)}, {2: (0.1, 0.0), 4: (1.0, 0.0), 8: (0.1, 0.0)}])
def test_neither_latency_nor_time_per_byte_is_ever_negative(exchanged):
    latency, per_byte = fit_ring({n: parts(message=a, exchange=b) for n, (a, b) in exchanged.items()}, 1e6)
    assert (latency, per_byte) > (0.0, 0.0) and min(latency, per_byte) == 0.0


def test_losses_are_compared_step_by_step():
    assert largest_difference({1: [1.0, 2.0], 2: [1.0, 2.002], 4: [1.0, 2.0]}) == pytest.approx(0.002 / 2.002)
    assert largest_difference({1: [0.0], 2: [0.0]}) == 0.0
    assert largest_difference({1: [1.0, 2.0]}) == 0.0


def test_each_part_lies_between_two_looks_at_the_clock(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(parts_module, "now", lambda worker: float(next(clock) ** 2))
    recipe = find_recipe("toy")()
    found = measure_parts(recipe, recipe.defaults(), prepare(recipe), num_steps=1)
    looks = 7 * parts_module.WARM_UP  # a step looks seven times, so these came before
    expected = [(looks + i + 1) ** 2 - (looks + i) ** 2 for i in range(6)]
    expected[4] /= parts_module.MESSAGES
    assert list(dataclasses.astuple(found)) == pytest.approx(expected)
    assert found.total() == pytest.approx(sum(expected) - expected[4])
