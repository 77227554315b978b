"""What a step takes in memory: worked out beforehand, and seen by torch's profiler; layers that compute once more."""

import dataclasses
import gc
import weakref
from pathlib import Path

import pytest
import torch
from tiny import write_conversations, write_tiny
from torch.profiler import ProfilerActivity, profile

from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.recipes.finetune import FineTune
from onehour.recipes.gpt import GPTRecipe
from onehour.recipes.toy import Toy
from onehour.training.device import Worker
from onehour.training.layers import checkpoint_layers
from onehour.training.loop import one_step, train
from onehour.training.memory import estimate_memory
from onehour.training.optim import build_optimizer
from onehour.training.simulate import peak_of_steps

RECIPE = GPTRecipe(depth=2, context=64, text=str(Path(__file__).parents[2] / "LICENSE"))
CONFIG = dataclasses.replace(
    RECIPE.defaults(), optimizer="adamw", num_steps=4, log_every=1, evaluate_every=None, checkpoint_every=None
)
CONFIGS = {
    "adamw": CONFIG,
    "muon": dataclasses.replace(CONFIG, optimizer="muon"),
    "accumulated": dataclasses.replace(CONFIG, micro_batch_size=2),
    "checkpointed": dataclasses.replace(CONFIG, activation_checkpointing=True),
}


def measured_peak(config, recipe=RECIPE) -> int:
    """The most bytes that all tensors took at a time in two steps."""
    data = prepare(recipe)
    rows = data.train
    size = config.micro_batch_size or config.global_batch_size
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model = recipe.begin(data.folder)
        if config.activation_checkpointing:
            checkpoint_layers(model)
        optimizer = build_optimizer(model, config)
        for step in range(2):
            batches = [rows[list(range(size))] for _ in range(config.global_batch_size // size)]
            one_step(recipe, model, optimizer, batches, config, Worker(0, 1, torch.device("cpu")), step)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


@pytest.mark.parametrize("name", CONFIGS)
def test_the_peak_of_a_step_is_worked_out_beforehand(name):
    peak = peak_of_steps(RECIPE, CONFIGS[name], prepare(RECIPE))
    assert peak["total"] == pytest.approx(measured_peak(CONFIGS[name]), rel=0.02)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_plan_tells_about_as_much(name):
    config = CONFIGS[name]
    size = config.micro_batch_size or config.global_batch_size
    told = estimate_memory(RECIPE, RECIPE.build_model(), config, prepare(RECIPE).train, size).total
    assert told == pytest.approx(peak_of_steps(RECIPE, config, prepare(RECIPE))["total"], rel=0.15)


@pytest.mark.parametrize("rank", [4, None])
def test_the_plan_of_a_fine_tuning_tells_what_torch_counts(rank, tmp_path):
    write_tiny(tmp_path / "tiny")
    write_conversations(tmp_path / "talk.jsonl")
    recipe = FineTune(str(tmp_path / "tiny"), str(tmp_path / "talk.jsonl"), context=160, lora_rank=rank)
    data, config = prepare(recipe), recipe.defaults()
    told = estimate_memory(recipe, recipe.begin(data.folder), config, data.train, config.micro_batch_size).total
    assert told == pytest.approx(measured_peak(config, recipe), rel=0.15)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_stays_of_a_model_that_was_looked_at(name):
    """A step was leaked once, activations and weights: 1.2 GB of a fine-tuning, before it began."""
    model = RECIPE.build_model()
    weight = weakref.ref(model.embed_tokens.weight)
    estimate_memory(RECIPE, model, CONFIGS[name], prepare(RECIPE).train, 2)
    del model
    gc.collect()
    assert weight() is None


def test_layers_that_compute_once_more_take_less_memory_and_change_no_bit():
    plain, checkpointed = (
        [report.metrics["loss"] for report in train(RECIPE, CONFIGS[name])] for name in ("adamw", "checkpointed")
    )
    assert checkpointed == plain
    assert measured_peak(CONFIGS["checkpointed"]) < 0.75 * measured_peak(CONFIGS["adamw"])


def test_a_model_without_layers_is_refused():
    with pytest.raises(InputError, match="--activation-checkpointing is for layers in a ModuleList, and the model has"):
        checkpoint_layers(Toy().build_model())
