"""A search's folder."""

import dataclasses

import pytest

from onehour.cli import main
from onehour.config import SearchConfig
from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.recipes.toy import Toy
from onehour.space import read_space
from onehour.training.keep import keep
from onehour.training.loop import train
from onehour.training.run import Run, open_run
from onehour.training.trials import Asked, Search, Trial, find_search, new_name

TEXTS = {"learning_rate": "log(1e-3, 1)", "clip": "choice(None, 1)", "num_steps": "choice(10, 20)", "momentum": "0.5"}


def asked_for(**options):
    return Asked("toy", *read_space(Toy(), Toy().defaults(), TEXTS), SearchConfig(**options))


def trial(number, loss, state="done", learning_rate=0.1):
    chosen = {"learning_rate": learning_rate, "clip": None, "num_steps": 10}
    return Trial(f"trial-{number}", state, chosen, 10, 10, {"held_out_loss": loss, "held_out_accuracy": loss}, 1.5)


@pytest.fixture
def search(tmp_path):
    (tmp_path / "mine").mkdir()
    search = Search(tmp_path / "mine")
    search.describe(asked_for(runs=tmp_path, space=("a=1",)))
    return search


def test_what_was_asked_for_is_read_as_it_was(search):
    assert search.asked() == asked_for(runs=search.folder.parent, space=("a=1",))
    assert search.asked().config.momentum == 0.5


def test_results_are_read_as_they_were(search):
    failed = Trial("trial-3", "failed", {"learning_rate": 0.3, "clip": 1.0, "num_steps": 20}, num_steps=20, error="no")
    trials = [trial(1, 0.5), trial(2, 0.25, "stopped"), failed]
    assert search.results() == []
    search.write_results(trials)
    assert search.results() == trials


def test_the_best_is_the_lowest_or_the_highest_of_those_that_are_numbers(search):
    trials = [trial(1, 0.5), trial(2, 0.25), trial(3, float("nan")), trial(4, float("-inf")), trial(5, 0.75)]
    assert [t.name for t in asked_for().ranked(trials)] == ["trial-2", "trial-1", "trial-5"]
    assert [t.name for t in asked_for(maximize="held_out_accuracy").ranked(trials)] == ["trial-5", "trial-1", "trial-2"]


def test_a_search_stands_for_the_run_of_its_best_trial(search):
    with pytest.raises(
        InputError, match=r"No trial of the search mine has ended .* onehour search --resume mine --runs"
    ):
        open_run(search.folder.parent, "mine")
    search.write_results([trial(1, 0.5), trial(2, 0.25, learning_rate=0.2)])
    assert open_run(search.folder.parent, "mine").folder == search.folder / "trial-2"
    recipe, config = search.best_settings()
    assert recipe == Toy()
    assert config == dataclasses.replace(Toy().defaults(), momentum=0.5, learning_rate=0.2, clip=None, num_steps=10)
    with pytest.raises(InputError, match=r"There is no run other in .*; there are mine."):
        open_run(search.folder.parent, "other")
    assert find_search(search.folder.parent, "other") is None


def test_a_search_is_removed_whole(search, capsys):
    search.write_results([trial(1, 0.5)])
    with search.lock(), pytest.raises(SystemExit):
        main(["rm", "mine", "--yes", f"--runs={search.folder.parent}"])
    assert search.results_file.is_file()
    main(["rm", "mine", "--yes", f"--runs={search.folder.parent}"])
    assert not search.folder.exists()


def test_names(search):
    runs = search.folder.parent
    assert new_name(runs, asked_for()) == "search-toy-1"
    (runs / "search-toy-1").mkdir()
    assert new_name(runs, asked_for()) == "search-toy-2"
    assert new_name(runs, asked_for(name="other")) == "other"
    with pytest.raises(
        InputError, match=r"There is something called mine in .* onehour search --resume mine, or choose"
    ):
        new_name(runs, asked_for(name="mine"))


def test_one_process_at_a_time(search):
    with (
        search.lock(),
        pytest.raises(InputError, match=r"The search mine is being run by another process"),
        search.lock(),
    ):
        pass
    with search.lock():
        pass


def test_each_report_of_a_trial_comes_after_its_checkpoint(tmp_path):
    """A trial may be stopped at any report, and what it has told can be used."""
    (tmp_path / "run").mkdir()
    run, config = Run(tmp_path / "run"), asked_for().trial_config()
    prepare(Toy())
    steps = []
    for report in keep(train(Toy(), config), run, config.keep, settled=True):
        if "held_out_loss" in report.metrics:
            assert run.newest_checkpoint()[0] == run.checkpoint_at(report.step)
            steps.append(report.step)
    assert steps == [10, 20, 30, 40, 50]
