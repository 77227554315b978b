"""What workers tell each other."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from onehour.config import TrainConfig
from onehour.training.device import Worker, this_worker
from onehour.training.parallel import gather_objects, of_rank_0

ALONE = Worker(0, 1, torch.device("cpu"))


def work(rank: int, world_size: int, folder: Path) -> None:
    """One worker of three: what each of them says is gathered, and what the first one says is heard by all."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=world_size)
    worker = this_worker(TrainConfig(num_epochs=1, global_batch_size=3))
    gathered = gather_objects({"said": "x" * rank}, worker)
    (folder / f"heard_by_{rank}").write_text(str((gathered, of_rank_0(f"rank {rank}", worker))))
    dist.destroy_process_group()


def test_only_rank_0_gathers_and_all_hear_what_it_says(tmp_path):
    """Every other worker has work that does not grow with their number."""
    mp.spawn(work, (3, tmp_path), nprocs=3)
    heard = [(tmp_path / f"heard_by_{rank}").read_text() for rank in range(3)]
    everything = [{"said": ""}, {"said": "x"}, {"said": "xx"}]
    assert heard == [str((gathered, "rank 0")) for gathered in (everything, [], [])]


def test_a_worker_that_is_alone_hears_itself():
    assert gather_objects("x", ALONE) == ["x"]
    assert of_rank_0("x", ALONE) == "x"
