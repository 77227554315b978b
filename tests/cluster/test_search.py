"""Ray Tune over the same `train`."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from onehour.cluster import search as module
from onehour.cluster.search import search, trial
from onehour.errors import InputError
from onehour.recipes.toy import Toy
from onehour.training.checkpoint import read_facts
from onehour.training.loop import train

CONFIG = dataclasses.replace(Toy().defaults(), num_steps=6, evaluate_every=2, checkpoint_every=2)


def reports_of(config):
    reports = (report for report in train(Toy(), config) if "held_out_loss" in report.metrics)
    return [(report.step, report.metrics["held_out_loss"]) for report in reports]


def test_a_grid_has_every_combination_and_each_trial_the_losses_of_the_same_training(tmp_path, local_ray):
    """Also: a trial that fails is one result with its error, and the best one has its checkpoint."""
    space = {"learning_rate": tune.grid_search([0.01, 0.1]), "momentum": tune.grid_search([0.0, 0.5, 1.5])}
    results = search(Toy(), CONFIG, space, tmp_path / "grid", cpus_per_trial=4)
    assert len(results) == 6
    for result in results:
        if result.config["momentum"] > 1:
            assert "momentum is 1.5; it must be at least 0 and less than 1." in str(result.error)
        else:
            told = dict(result.metrics_dataframe[["step", "held_out_loss"]].values.tolist())
            assert told == pytest.approx(dict(reports_of(dataclasses.replace(CONFIG, **result.config))), rel=1e-5)
    best = results.get_best_result()
    assert best.config == {"learning_rate": 0.1, "momentum": 0.5}
    assert read_facts(Path(best.checkpoint.path))["step"] == 6


def test_a_scheduler_stops_trials(tmp_path, local_ray):
    """One at a time, the best first: whoever comes later is not among the best half at the first rung."""
    config = dataclasses.replace(CONFIG, num_steps=8)
    halving = ASHAScheduler(time_attr="step", max_t=8, grace_period=2, reduction_factor=2)
    space = {"learning_rate": tune.grid_search([0.1, 0.01, 0.001])}
    results = search(Toy(), config, space, tmp_path / "asha", scheduler=halving, trials_at_once=1)
    assert [result.metrics["step"] for result in results] == [8, 2, 2]


@pytest.mark.parametrize(
    ("space", "options", "said"),
    [
        (
            {"learning_rat": 1},
            {},
            "The space names learning_rat; what can be set is activation_checkpointing, audit, audit_ids",
        ),
        ({"learning_rate": 1}, {"cpus_per_trial": 99}, "No node has 99 CPU cores for a trial; ask for less."),
    ],
)
def test_a_search_that_cannot_be_is_refused_at_once(tmp_path, local_ray, space, options, said):
    with pytest.raises(InputError, match=said):
        search(Toy(), CONFIG, space, tmp_path / "search", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_used_twice(tmp_path):
    with pytest.raises(InputError, match="already; choose another folder for this search"):
        search(Toy(), CONFIG, {}, tmp_path)


def test_a_trial_goes_on_from_the_checkpoint_that_tune_gives(tmp_path, monkeypatch):
    first = next(report for report in train(Toy(), CONFIG) if report.checkpoint)
    kept = first.checkpoint.save(tmp_path / "checkpoint")
    told = []
    monkeypatch.setattr(module, "tune", SimpleNamespace(
        get_checkpoint=lambda: tune.Checkpoint(str(kept)), Checkpoint=tune.Checkpoint,
        report=lambda metrics, checkpoint: told.append((metrics["step"], metrics["held_out_loss"])),
    ))  # fmt: skip
    trial({}, Toy().describe(), dataclasses.asdict(CONFIG))
    assert told == reports_of(CONFIG)[1:]
