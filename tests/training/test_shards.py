"""A sharded model: the same losses, and checkpoints to which every worker writes and which any number of workers read."""

import dataclasses
import os
import resource
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from onehour.config import ScaleConfig, TrainConfig
from onehour.data.prepare import prepare
from onehour.recipes.gpt import GPTRecipe
from onehour.training.checkpoint import shapes_in
from onehour.training.keep import keep, keep_part
from onehour.training.loop import train
from onehour.training.run import Run, create_run, load_trained

LICENSE = Path(__file__).parents[2] / "LICENSE"
RECIPE = GPTRecipe(depth=2, context=32, text=str(LICENSE))
CONFIG = dataclasses.replace(
    RECIPE.defaults(), num_steps=12, log_every=1, evaluate_every=4, checkpoint_every=8, global_batch_size=12,
    micro_batch_size=1, keep=None,
)  # fmt: skip
SHARDED = dataclasses.replace(CONFIG, strategy="fsdp")
KINDS = {
    "sharded": SHARDED,
    "offloaded": dataclasses.replace(SHARDED, offload=True),
    "half": dataclasses.replace(SHARDED, precision="bfloat16"),
}

Job = tuple[TrainConfig, Run, Path | None]


def work(rank: int, world_size: int, meeting: Path, jobs: list[Job]) -> None:
    """One worker of a group: these trainings, one after the other."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world_size)
    for config, run, start in jobs:
        if run.name == "full" and rank == 1:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY)
            )  # a disk without room for its part
        reports = train(RECIPE, config, start)
        try:
            list(keep(reports, run, config.keep) if rank == 0 else keep_part(reports))
        except Exception as error:
            if run.name != "full":
                raise
            (run.folder / f"said_by_{rank}").write_text(str(error))
    dist.destroy_process_group()


def train_together(world_size: int, folder: Path, *jobs: Job) -> None:
    mp.spawn(work, (world_size, folder / f"meeting-{world_size}", list(jobs)), nprocs=world_size)


def new_run(folder: Path, name: str, config: TrainConfig) -> Run:
    run = create_run(folder, name, RECIPE.name())
    run.describe(RECIPE, config, ScaleConfig(), prepare(RECIPE))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """The same training in one process; sharded over two; and once more from the sharded checkpoint of step 8."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {name: new_run(folder, name, KINDS.get(name, SHARDED)) for name in ("whole", *KINDS, "resumed", "full")}
    list(keep(train(RECIPE, CONFIG), runs["whole"], None))
    start = runs["sharded"].checkpoint_at(8)
    train_together(
        2, folder, *((config, runs[name], None) for name, config in KINDS.items()), (SHARDED, runs["resumed"], start),
        (SHARDED, runs["full"], None),
    )  # fmt: skip
    return runs


def losses(run: Run, name: str = "loss") -> list[float]:
    return [row[name] for row in run.rows() if name in row]


def num_elements(file: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(file).values())


@pytest.mark.parametrize("kind", ["sharded", "offloaded"])
@pytest.mark.parametrize("name", ["loss", "gradient_norm", "held_out_loss"])
def test_a_sharded_model_has_the_losses_of_one_process(runs, name, kind):
    assert losses(runs[kind], name) == pytest.approx(losses(runs["whole"], name), rel=1e-5)


def test_in_bfloat16_they_are_nearly_the_same_and_the_weights_stay_float32(runs):
    assert losses(runs["half"]) == pytest.approx(losses(runs["whole"]), rel=0.02)
    assert losses(runs["half"]) != pytest.approx(losses(runs["whole"]), rel=1e-5)
    part = next((runs["half"].checkpoint_at(12) / "model").iterdir())
    assert {tensor.dtype for tensor in load_file(part).values()} == {torch.float32}


def test_each_worker_writes_a_part_of_each_weight(runs):
    parts = sorted((runs["sharded"].checkpoint_at(8) / "model").iterdir())
    assert len(parts) == 2
    first, second = map(num_elements, parts)
    weights = num_elements(runs["whole"].checkpoint_at(8) / "model.safetensors")
    assert first + second == weights
    assert min(first, second) > 0.45 * weights
    assert shapes_in(runs["sharded"].checkpoint_at(8), "model") == shapes_in(runs["whole"].checkpoint_at(8), "model")


def test_the_same_workers_go_on_bit_for_bit(runs):
    for name in ("model", "optimizer"):
        ours, theirs = (parts_of(runs[run].checkpoint_at(12) / name) for run in ("resumed", "sharded"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_three_workers_go_on_bit_for_bit(others):
    """With three, the order in which gradients are added up matters, too."""
    for name in ("model", "optimizer"):
        ours, theirs = (
            load_file(others[run].checkpoint_at(12) / f"{name}.safetensors") for run in ("ddp", "ddp-resumed")
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def parts_of(folder: Path) -> dict[str, torch.Tensor]:
    """The parts of each tensor, flat and in the order of the ranks."""
    files = [load_file(path) for path in sorted(folder.iterdir())]
    names = set().union(*files)
    return {name: torch.cat([file[name].flatten() for file in files if name in file]) for name in names}


@pytest.fixture(scope="module")
def others(runs, tmp_path_factory) -> dict[str, Run]:
    """Trainings that go on from step 8: from the sharded checkpoint, or from the whole one; and one of three with DDP."""
    tmp_path = tmp_path_factory.mktemp("others")
    sharded, whole = runs["sharded"].checkpoint_at(8), runs["whole"].checkpoint_at(8)
    names = ("1", "3", "3-from-whole", "3-ddp", "4", "ddp", "ddp-resumed")
    there = {name: new_run(tmp_path, name, CONFIG) for name in names}
    list(keep(train(RECIPE, CONFIG, sharded), there["1"], None))
    train_together(
        3, tmp_path, (SHARDED, there["3"], sharded), (SHARDED, there["3-from-whole"], whole),
        (CONFIG, there["3-ddp"], sharded), (CONFIG, there["ddp"], None),
        (CONFIG, there["ddp-resumed"], there["ddp"].checkpoint_at(8)),
    )  # fmt: skip
    train_together(4, tmp_path, (SHARDED, there["4"], sharded))
    return there


@pytest.mark.parametrize("name", ["1", "3", "3-from-whole", "3-ddp", "4"])
def test_another_number_of_workers_goes_on_with_the_same_losses(name, runs, others):
    assert losses(others[name]) == pytest.approx(losses(runs["whole"])[8:], rel=1e-5)


def test_a_trained_model_is_loaded_whole(runs):
    _, model = load_trained(runs["sharded"])
    expected = load_file(runs["whole"].checkpoint_at(12) / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_damaged_part_is_named(runs):
    part = next((runs["sharded"].checkpoint_at(12) / "optimizer").glob("shard-00002-*"))
    before = part.read_bytes()
    part.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    good, warnings = runs["sharded"].newest_checkpoint()
    part.write_bytes(before)
    assert good == runs["sharded"].checkpoint_at(8)
    assert f"optimizer/{part.name} has other bytes than were written" in warnings[0]


def test_a_part_that_cannot_be_written_is_told_by_rank_0_and_leaves_nothing(runs):
    run = runs["full"]
    said = (run.folder / "said_by_0").read_text()
    assert said.startswith("The run full could not be kept in ")
    assert "the worker of rank 1 could not write its part: [Errno 27] File too large" in said
    assert list((run.folder / "checkpoints").iterdir()) == []
