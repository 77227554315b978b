"""Runs to look at, written and not trained."""

import json

import pytest

from onehour.config import ScaleConfig, TrainConfig
from onehour.data.prepare import prepare
from onehour.recipe import find_recipe
from onehour.training.run import create_run

WHILE = {"num_steps": 40, "samples_per_second": 1000.0, "learning_rate": 0.5, "gradient_norm": 1.0}


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run with these losses, a report every ten steps, and an evaluation with every second."""

    def make(name, losses, recipe="toy", **options):
        runs = tmp_path / "runs"
        run, recipe = create_run(runs, name, recipe), find_recipe(recipe)()
        run.describe(recipe, TrainConfig(**options), ScaleConfig(), prepare(recipe))
        rows = [{"step": 10 * i, "loss": loss} | WHILE for i, loss in enumerate(losses, start=1)]
        for row in rows[1::2]:
            row |= {"held_out_loss": row["loss"] / 2, "peak_memory": 2e8}
        run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return run

    return make
