import io
import re
import sys

import pytest

from onehour.config import SearchConfig
from onehour.recipes.toy import Toy
from onehour.show.searches import (
    FEWEST_TRIALS,
    Live,
    importance,
    importance_text,
    live_text,
    marks,
    place_of,
    results_text,
    save_best_so_far,
    save_parallel,
)
from onehour.space import Domain, read_space
from onehour.training.trials import Asked, Search, Trial

TEXTS = {"learning_rate": "log(1e-3, 1)", "momentum": "uniform(0, 0.9)", "optimizer": "choice(adamw, sgd)"}
ASKED = Asked("toy", *read_space(Toy(), Toy().defaults(), TEXTS), SearchConfig())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def trial(number, state="done", loss=0.5, **chosen):
    chosen = {"learning_rate": 0.1, "momentum": 0.5, "optimizer": "sgd"} | chosen
    step = {"done": 50, "stopped": 10, "running": 20}.get(state, 0)
    metrics = {"held_out_loss": loss} if step else {}
    error = "ValueError: no" if state == "failed" else None
    return Trial(f"trial-{number}", state, chosen, step, 50, metrics, 1.5, error)


def test_the_live_table_has_who_runs_first_and_as_many_lines_as_the_terminal():
    trials = [trial(1), trial(2, "stopped", 0.7), trial(3, "running", 0.4), trial(4, "failed"), trial(5, "waiting")]
    assert live_text(trials, ASKED, 83, num_lines=20) == (
        "  trial  learning_rate  momentum  optimizer   step  held-out loss    state\n"
        "trial-3            0.1       0.5        sgd  20/50         0.4000  running\n"
        "trial-1            0.1       0.5        sgd  50/50         0.5000     done\n"
        "trial-2            0.1       0.5        sgd  10/50         0.7000  stopped\n"
        "trial-4            0.1       0.5        sgd                         failed\n"
        "3 of 20 trials ended (1 failed), 1 running, 83 s; the best so far: trial-3, loss 0.4000"
    )
    assert live_text([trial(i) for i in range(99)], ASKED, 83, num_lines=10).count("\n") == 9


def test_the_table_is_drawn_over_and_no_line_of_it_wraps(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    live = Live(Search(tmp_path), ASKED)
    live.show([trial(1)])
    live.show([trial(1), trial(2)])
    live.end()
    assert max(len(line) for line in re.sub("\033.{1,2}[FJ]|\033.J", "", screen.getvalue()).splitlines()) == 39
    assert re.findall("\033.([0-9]+)F", screen.getvalue()) == ["3", "4"]  # as many lines as were drawn


def test_without_a_terminal_a_line_for_each_trial_that_has_ended(tmp_path, capsys):
    (live := Live(Search(tmp_path), ASKED)).show([trial(1, "running"), trial(2, "failed")])
    live.show([trial(1, "stopped", 0.25), trial(2, "failed")])
    live.end()
    assert capsys.readouterr().out == (
        "trial-2    failed  learning_rate 0.1, momentum 0.5, optimizer sgd  ValueError: no\n"
        "trial-1    stopped at step 10/50  held-out loss 0.2500  learning_rate 0.1, momentum 0.5, optimizer sgd\n"
    )


def test_results_are_counted_and_errors_told():
    text = results_text([trial(1), trial(2, "stopped", 0.2), trial(3, "failed"), trial(4, loss=float("nan"))], ASKED)
    assert [line.split()[0] for line in text.splitlines()] == ["trial", "trial-2", "trial-1", "4", "trial-3"]
    assert "4 trials: 2 done, 1 stopped, 1 failed; 110 steps in all" in text
    assert "trial-3 failed: ValueError: no" in text


def test_what_decides_is_what_mattered():
    """The rank is that of the learning rate; momentum and optimizer are beside it."""
    ranked = [
        trial(i, loss=i / 10, learning_rate=10 ** (-i / 8), momentum=i * 5 % 8 / 10, optimizer=("adamw", "sgd")[i % 2])
        for i in range(24)
    ]
    found = importance(ranked, ASKED)
    assert next(iter(found)) == "learning_rate"
    assert found["learning_rate"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert "learning_rate" in importance_text(found).splitlines()[0]
    assert "too few trials" in importance_text(importance(ranked[: FEWEST_TRIALS - 1], ASKED))


def test_places_at_an_axis():
    assert place_of(0.1, Domain("log", (0.01, 1.0))) == pytest.approx(0.5)
    assert place_of(3, Domain("int", (1, 5))) == 0.5
    assert [place_of(v, Domain("choice", ("a", "b", "c"))) for v in "abc"] == [0, 0.5, 1]
    assert marks(Domain("log", (0.001, 1.0))) == pytest.approx([0.001, 0.01, 0.1, 1.0])


@pytest.mark.parametrize("losses", [[0.5], [0.5, 0.5], [5.0, 0.1, 0.3]])
def test_pictures_of_few_equal_and_very_different_losses(tmp_path, losses):
    trials = [trial(i, loss=loss, learning_rate=0.01 * (i + 1)) for i, loss in enumerate(losses)]
    for save in (save_parallel, save_best_so_far):
        assert save(ASKED.ranked(trials), ASKED, tmp_path / "a.png").stat().st_size > 10_000
