"""How an attempt ends that nobody follows any more."""

import signal
import threading
from types import SimpleNamespace

import pytest

from onehour.cluster import attempt
from onehour.cluster.attempt import Attempt, longer, look_seconds


def test_the_controller_looks_more_rarely_after_many_workers_so_that_its_work_does_not_grow():
    assert [look_seconds(workers) for workers in (1, 64, 120)] == [0.2, 0.2, 0.2]
    assert look_seconds(4800) / 4800 == look_seconds(600) / 600 == 1 / 600


def test_and_the_longer_a_training_has_taken():
    assert [longer(0.2, seconds) for seconds in (0, 8, 20, 40, 4000)] == [0.2, 0.2, 0.5, 1.0, 1.0]
    assert [longer(8.0, seconds) for seconds in (0, 4000)] == [8.0, 8.0]


def interrupt(number, frame):
    raise KeyboardInterrupt


def wait_for_ever(one):
    with one.fitting():
        while True:
            one.ended.wait(attempt.FOLLOW_SECONDS)


def test_ctrl_c_leaves_no_trainer_behind(monkeypatch):
    killed = threading.Event()
    monkeypatch.setattr(attempt, "kill_controller", killed.set)
    one = object.__new__(Attempt)
    one.error, one.ended, one.trainer = None, threading.Event(), SimpleNamespace(fit=killed.wait)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.12)  # while it waits
    with pytest.raises(KeyboardInterrupt):
        wait_for_ever(one)
    signal.signal(signal.SIGALRM, before)
    assert killed.is_set() and one.ended.is_set()
