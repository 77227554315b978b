"""--reproducible: the same bits at 1, 2, 4 and 8 workers, over changes of their number, and sums in a tree."""

import dataclasses
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor, nn

from onehour.config import ScaleConfig, TrainConfig
from onehour.data.loader import evaluation_batches, fixed_evaluation_batches, num_micro_batches, num_shards
from onehour.data.prepare import prepare
from onehour.errors import InputError
from onehour.models.gpt import GPT
from onehour.recipes.gpt import GPTRecipe
from onehour.training.device import to_device
from onehour.training.keep import keep, keep_part
from onehour.training.loop import train
from onehour.training.plan import make_plan, usable_sizes
from onehour.training.reproducible import add_micro_batches, mean_in_pairs, sum_in_pairs
from onehour.training.run import Run, create_run

LICENSE = Path(__file__).parents[2] / "LICENSE"
STEPS = 8


@dataclass(frozen=True)
class Dropping(GPTRecipe):
    """A small model that draws random numbers as it trains."""

    def build_model(self) -> GPT:
        model = super().build_model()
        model.norm = nn.Sequential(model.norm, nn.Dropout(0.1))
        return model


RECIPE = Dropping(depth=1, context=32, text=str(LICENSE))
PLAIN = dataclasses.replace(
    RECIPE.defaults(), num_steps=STEPS, log_every=2, evaluate_every=4, checkpoint_every=4, global_batch_size=24,
    micro_batch_size=3, keep=None,
)  # fmt: skip
ADAMW, MUON = (dataclasses.replace(PLAIN, reproducible=True, optimizer=name) for name in ("adamw", "muon"))
WITHOUT_DROPOUT = GPTRecipe(**dataclasses.asdict(RECIPE))
TRAININGS = {"adamw": (RECIPE, ADAMW), "muon": (RECIPE, MUON), "plain": (WITHOUT_DROPOUT, PLAIN)}

Job = tuple[str, Run, Path | None]  # the name of a training, and where it goes on


def work(rank: int, world_size: int, meeting: Path, jobs: list[Job]) -> None:
    """One worker of a group: these trainings, one after the other."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world_size)
    for name, run, start in jobs:
        recipe, config = TRAININGS[name]
        reports = train(recipe, config, start)
        list(keep(reports, run, config.keep) if rank == 0 else keep_part(reports))
    dist.destroy_process_group()


def job(folder: Path, training: str, name: str, start: Path | None = None) -> Job:
    recipe, config = TRAININGS[training]
    run = create_run(folder, name, recipe.name())
    run.describe(recipe, config, ScaleConfig(), prepare(recipe))
    return training, run, start


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """Each training at each number of workers; and trainings that go on at step 4 with another number of them.

    The processes are forked from one that has imported everything.
    """
    folder = tmp_path_factory.mktemp("runs")
    multiprocessing.set_forkserver_preload(["onehour.training.loop", "onehour.training.keep", "onehour.recipes.gpt"])
    runs: dict[str, Run] = {}
    before = 0
    for workers in (1, 8, 4, 2, 1):
        jobs = [job(folder, name, f"{name}-{workers}") for name in TRAININGS if f"{name}-{workers}" not in runs]
        if before:
            begun = runs[f"adamw-{before}"].checkpoint_at(4)
            jobs.append(job(folder, "adamw", f"{before}-to-{workers}", begun))
        meeting = folder / f"meeting-{before}-{workers}"
        mp.start_processes(work, (workers, meeting, jobs), workers, start_method="forkserver")
        runs |= {run.name: run for _, run, _ in jobs}
        before = workers
    return runs


def tensors(run: Run) -> dict[str, Tensor]:
    """Weights and moments at the end."""
    files = [run.checkpoint_at(STEPS) / f"{name}.safetensors" for name in ("model", "optimizer")]
    return load_file(files[0]) | load_file(files[1])


def same_bits(run: Run, other: Run) -> bool:
    ours, theirs = tensors(run), tensors(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def numbers(run: Run) -> list[dict[str, float]]:
    """What the run reported, without what is measured."""
    measured = ("samples_per_second", "peak_memory", "time")
    return [{name: value for name, value in row.items() if name not in measured} for row in run.rows()]


@pytest.mark.parametrize("workers", [2, 4, 8])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_any_number_of_workers_gives_the_same_bits(name, workers, runs):
    alone, together = runs[f"{name}-1"], runs[f"{name}-{workers}"]
    assert same_bits(together, alone)
    assert numbers(together) == numbers(alone)


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_without_it_sums_are_rounded_differently(workers, runs):
    """So that the test above could fail."""
    assert not same_bits(runs[f"plain-{workers}"], runs["plain-1"])
    losses, alone = ([row["loss"] for row in numbers(runs[f"plain-{number}"])] for number in (workers, 1))
    assert losses == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("change", ["8-to-4", "4-to-2", "2-to-1", "1-to-8"])
def test_another_number_of_workers_goes_on_with_the_same_bits(change, runs):
    assert same_bits(runs[change], runs["adamw-1"])
    assert numbers(runs[change]) == numbers(runs["adamw-1"])[2:]


def test_a_sum_in_pairs_is_not_the_sum_from_left_to_right():
    terms = torch.tensor([1, 2**-24, 2**-24, 2**-24])
    assert sum_in_pairs(terms) == 1 + 2**-23
    assert sum(terms.tolist()[1:], terms[0]) == 1


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_a_mean_in_pairs_is_that_of_the_means_of_its_parts(parts):
    terms = list(torch.randn(8, 1000, generator=torch.Generator().manual_seed(1)))
    size = 8 // parts
    means = [mean_in_pairs(terms[i : i + size]) for i in range(0, 8, size)]
    assert torch.equal(mean_in_pairs(means), mean_in_pairs(terms))


@pytest.mark.parametrize("number", [2, 4, 8, 16])
def test_backward_adds_up_micro_batches_in_pairs_again_and_again(number):
    weight = nn.Parameter(torch.zeros(1000))
    weight.register_post_accumulate_grad_hook(add_micro_batches(number))
    for step in range(2):
        weight.grad = None
        gradients = torch.randn(number, 1000, generator=torch.Generator().manual_seed(step))
        for gradient in gradients:
            (weight * gradient).sum().backward()
        assert torch.equal(weight.grad, sum_in_pairs(gradients))


def test_a_batch_begins_where_its_bits_do_not_depend_on_what_it_was_cut_from():
    cut = {"x": torch.zeros(100)[1:]}
    assert cut["x"].data_ptr() % 16
    assert to_device(cut, torch.device("cpu"))["x"].data_ptr() % 16 == 0


def test_held_out_batches_are_the_same_at_any_number_of_workers():
    whole = evaluation_batches(100, 0, 1, 8)
    for workers in (1, 3, 20):
        parts = [fixed_evaluation_batches(100, rank, workers, 8) for rank in range(workers)]
        assert [batch for part in parts for batch in part] == whole


@pytest.mark.parametrize(
    ("total", "size", "shards"), [(8, None, 8), (36, None, 4), (7, None, 1), (12, 3, 4), (64, 1, 64)]
)
def test_shards_of_a_global_batch(total, size, shards):
    config = TrainConfig(global_batch_size=total, micro_batch_size=size, reproducible=True)
    assert num_shards(config) == shards
    assert [num_micro_batches(config, workers) for workers in (1, shards)] == [shards, 1]


@pytest.mark.parametrize(
    ("total", "size", "workers", "words"),
    [
        (36, 4, 1, "36 samples are not that many times 4: set micro_batch_size to 9 (which makes 4), or "
         "global_batch_size to 32."),
        (24, 2, 1, "24 samples are not that many times 2: set micro_batch_size to 3 (which makes 8), or "
         "global_batch_size to 32."),
        (32, None, 3, "--reproducible shares 8 micro-batches of 4 equally, so it is for 1, 2, 4, 8 workers, and there "
         "are 3; use one of these numbers, or make more micro-batches."),
        (32, 16, 4, "so it is for 1, 2 workers, and there are 4"),
    ],
)  # fmt: skip
def test_what_does_not_divide_is_told(total, size, workers, words):
    config = TrainConfig(global_batch_size=total, micro_batch_size=size, reproducible=True)
    with pytest.raises(InputError) as told:
        num_micro_batches(config, workers)
    assert words in str(told.value)


def test_an_elastic_training_takes_numbers_that_divide_the_shards():
    config = TrainConfig(global_batch_size=48, micro_batch_size=6, reproducible=True)
    assert usable_sizes(config, ScaleConfig(workers="1:8")) == [1, 2, 4, 8]


@pytest.mark.parametrize("strategy", ["fsdp", "dp"])
def test_a_strategy_that_adds_up_otherwise_is_refused(strategy):
    with pytest.raises(InputError, match=f"--strategy {strategy} does not let it; leave out --strategy"):
        TrainConfig(reproducible=True, strategy=strategy)


def test_running_statistics_are_refused_before_the_work(tmp_path):
    class Normed(Dropping):
        def build_model(self) -> GPT:
            model = super().build_model()
            model.norm = nn.Sequential(model.norm, nn.BatchNorm1d(32))
            return model

    recipe = Normed(depth=1, context=32, text=str(LICENSE))
    with pytest.raises(InputError, match=r"cannot train BatchNorm1d \(norm.1\): its running statistics depend on"):
        make_plan(recipe, ADAMW, prepare(RECIPE), 2, None)
