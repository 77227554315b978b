"""What a training is about to do, worked out before it does it."""

from dataclasses import dataclass
from pathlib import Path

from onehour.config import ScaleConfig, TrainConfig
from onehour.data.loader import num_micro_batches, num_shards
from onehour.data.prepare import Data
from onehour.recipe import Recipe
from onehour.training.checkpoint import check_order, load_model, read_facts
from onehour.training.device import give_back
from onehour.training.loop import count_steps
from onehour.training.memory import Memory, estimate_memory
from onehour.training.reproducible import check_statistics


@dataclass(frozen=True)
class Plan:
    """The sizes of a training at a number of workers."""

    workers: int
    micro_batch_size: int
    accumulation: int
    num_steps: int
    num_epochs: float
    num_train: int
    num_held_out: int
    about: str
    memory: Memory
    """Of one worker."""
    checkpoint_bytes: int


def make_plan(recipe: Recipe, config: TrainConfig, data: Data, workers: int, start: Path | None) -> Plan:
    """The plan of a training by `workers` workers, from the beginning or from the checkpoint `start`.

    Raises:
        InputError: the batch does not divide by the workers, the loss has the wrong shape, or the checkpoint does not
            fit. Errors in the recipe's own code are raised as they are.
    """
    accumulation = num_micro_batches(config, workers)
    micro_batch_size = config.global_batch_size // workers // accumulation
    num_steps = count_steps(config, len(data.train))
    model = recipe.begin(data.folder)
    if config.reproducible:
        check_statistics(model)
    if start:
        check_order(read_facts(start), recipe, config, data, start)
        load_model(model, start)
    memory = estimate_memory(recipe, model, config, data.train, micro_batch_size)
    del model
    give_back()
    return Plan(
        workers=workers,
        micro_batch_size=micro_batch_size,
        accumulation=accumulation,
        num_steps=num_steps,
        num_epochs=num_steps * config.global_batch_size / len(data.train),
        num_train=len(data.train),
        num_held_out=len(data.held_out),
        about=data.facts.get("about", recipe.name()),
        memory=memory.shared_by(workers) if config.strategy == "fsdp" else memory,
        checkpoint_bytes=memory.gradients + memory.optimizer,  # weights that are not trained have neither
    )


def usable_sizes(config: TrainConfig, scale: ScaleConfig) -> list[int]:
    """The numbers of workers among those asked for by which the global batch divides, or its shards; ascending.

    Raises:
        InputError: it divides by none of them.
    """
    asked = scale.sizes()
    pieces = num_shards(config) if config.reproducible else config.global_batch_size
    usable = [workers for workers in asked if workers and pieces % workers == 0]
    if not usable:
        num_micro_batches(config, asked[-1])  # names the batches that would do
    return usable
