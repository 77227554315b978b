"""What onehour scale shows of measurements that are given."""

import pytest
from matplotlib.figure import Figure

from onehour.cluster.scaling import Measured, Start
from onehour.show.scaling import assumption, draw_speedup, explanation, parts_text, results_text, simulation_text
from onehour.training.parts import Parts
from onehour.training.scaling import Model

MODEL = Model(compute=8e-3, serial=2e-3, gradient_bytes=1e6, seconds_per_byte=2e-9, latency=1e-4, weak=False)


def measured(workers, cores, step=10e-3, compute=8e-3):
    parts = Parts(data=0.5e-3, compute=compute, waiting=0.0, exchange=0.0, message=0.0, update=1e-3)
    return Measured(workers, cores, 64, [1.0], 64 / step, parts)


ONE, TWO = measured(1, 2.0), measured(2, 1.0, step=8e-3, compute=7.5e-3)


def told(sizes, num_cores, model=MODEL):
    return "\n".join(explanation(sizes, model, Start("runs", 1, num_cores)))


def test_tables():
    one, two = (line.split() for line in results_text([ONE, TWO], MODEL, ("tokens", 128)).splitlines()[1:])
    assert one == ["1", "2", "64", "819,200", "1.00", "100%", "1.00", "1.00"]
    # Amdahl: 10 / (8 / 2 + 2); the ring adds 1e6 bytes at 2 ns and 2 rounds of 0.1 ms: 10 / 8.2
    assert two == ["2", "1", "64", "1,024,000", "1.25", "62%", "1.67", "1.22"]
    assert " ".join(parts_text([ONE, TWO]).splitlines()[1].split()) == "1 10.00 0.50 8.00 0.00 0.00 1.00 0.50"
    assert parts_text([ONE, TWO]).splitlines()[2].split()[-1] == "-1.00"


def test_tables_of_large_numbers_fit_into_100_columns():
    many = [measured(n, 128.0, step=2.5e-3) for n in (1, 4096)]
    for text in (results_text(many, MODEL, ("tokens", 100_000)), parts_text(many)):
        assert max(map(len, text.splitlines())) <= 100


def test_workers_that_share_the_cores_are_told_apart_from_those_that_bring_their_own():
    assert "1 worker with 2 cores or 2 with 1 each: the same 2 cores at all sizes" in told([ONE, TWO], 2)
    assert "--cpus-per-worker 1 gives each worker as many at every size" in told([ONE, TWO], 2)
    assert "4 workers share 2 cores here" in told([ONE, measured(4, 0.5)], 2)
    assert "core" not in told([measured(1, 1.0), measured(2, 1.0)], 2)


def test_sentences():
    assert "20% is divided by no number of workers" in told([ONE], 2)
    assert "By Amdahl no number is more than 5.0 times as fast" in told([ONE], 2)
    assert "A ring of 2 sends 1 times that over each link, here at 500 MB/s, in 2 rounds of 100 µs." in told(
        [ONE, TWO], 2
    )
    assert "A rest below zero" in told([ONE, TWO], 2) and "A rest below zero" not in told([ONE], 2)
    busy = measured(1, 2.0, step=8e-3)
    assert "this machine was not quiet. Measure again." in told([busy, TWO], 2) and "quiet" not in told([ONE, TWO], 2)
    assert "Nothing was exchanged; what gradients of 1.0 MB cost is not known" in told([ONE], 2, MODEL.amdahl())


def test_simulation():
    lines = [line.split() for line in simulation_text(MODEL, [8, 128], 64).splitlines()]
    seconds = 8e-3 / 8 + 2e-3 + 2 * 7 / 8 * 2e-3 + 14 * 1e-4
    assert float(lines[1][1]) == pytest.approx(10e-3 / seconds, abs=0.005)
    assert len(lines[1]) == 4 and " ".join(lines[2][4:]) == "more workers than the 64 samples of a batch"
    assert "the 8,190 rounds of the ring" in assumption(MODEL, 4096) and "rounds" not in assumption(MODEL, 2)


def test_what_was_not_run_is_dashed_and_hollow():
    axes = Figure().add_subplot()
    draw_speedup(axes, [ONE, TWO], MODEL, [8, 64])
    lines = {line.get_label(): line for line in axes.lines}
    for name in ("simulated: Amdahl", "simulated: Amdahl and ring"):
        assert (lines[name].get_linestyle(), lines[name].get_markerfacecolor()) == ("--", "white")
        assert list(lines[name].get_xdata()) == [1, 2, 8, 64]
    assert lines["measured"].get_linestyle() == "-" and list(lines["measured"].get_xdata()) == [1, 2]
