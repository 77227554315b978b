"""What growth.py starts, and watches: python bench/growing.py WORKERS ADDRESS FOLDER

A training whose workers then measure themselves, and rest until they have been looked at.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from onehour.cluster.launch import train_on_ray
from onehour.config import ScaleConfig, TrainConfig
from onehour.data.prepare import Data, prepare
from onehour.recipe import Recipe, find_recipe, recipe_from
from onehour.training.checkpoint import State
from onehour.training.device import this_worker
from onehour.training.loop import train
from onehour.training.parallel import gather_tensors
from onehour.training.run import create_run
from onehour.training.shared import take

FIRST = 10  # a worker begins to measure after this step


def main() -> None:
    """What onehour train does, but for its words."""
    workers, address, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    recipe = find_recipe("toy")()
    config = replace(recipe.defaults(), global_batch_size=workers, num_steps=10, log_every=10, evaluate_every=None)
    config = replace(config, evaluate_first=True)  # a row of metrics.jsonl when the first step is about to begin
    scale = ScaleConfig(workers=workers, cpus_per_worker=1, runs=folder, address=address)
    run = create_run(folder, f"{workers}-workers", "toy")
    run.describe(recipe, config, scale, prepare(recipe))
    list(train_on_ray(recipe, config, scale, run, work=measured_worker))


def measured_worker(job: dict[str, Any]) -> None:
    """What each worker does: the training, then steps with and without what is measured, then nothing for a while."""
    from onehour.cluster.worker import train_worker

    train_worker(job)
    recipe, data, run = recipe_from(job["recipe"]), take(**job["data"]), Path(job["run"])
    config = replace(TrainConfig(**job["config"]), evaluate_first=False)
    reporting = replace(config, log_every=1)
    kinds = (config, reporting, replace(reporting, evaluate_every=1), replace(reporting, checkpoint_every=1))
    measured = [step_cpu(recipe, kind, data, run / "step_0000001") for kind in kinds]
    worker = this_worker(config)
    of_each = torch.stack(gather_tensors(torch.tensor([cpu for cpu, _ in measured]) * 1e3, worker))
    step, report, evaluation, checkpoint = (of_each[1:] if len(of_each) > 1 else of_each).mean(dim=0).tolist()
    if worker.rank == 0:
        _, report_0, evaluation_0, checkpoint_0 = of_each[0].tolist()
        found = {
            "step, a worker (CPU ms)": step,
            "report, a worker (CPU ms)": report - step,
            "evaluation, a worker (CPU ms)": evaluation - report,
            "evaluation, rank 0 (CPU ms)": evaluation_0 - report_0,
            "checkpoint, a worker (CPU ms)": checkpoint - report,
            "checkpoint, rank 0 without writing (CPU ms)": checkpoint_0 - report_0,
        } | measured[-1][1]
        (run / "growth.part").write_text(json.dumps(found))
        (run / "growth.part").rename(run / "growth.json")
    while not (run / "seen").exists():
        time.sleep(0.5)


def step_cpu(recipe: Recipe, config: TrainConfig, data: Data, folder: Path) -> tuple[float, dict[str, float]]:
    """CPU seconds of a step of this worker, with what `config` adds to it, and what rank 0's last checkpoint took.

    The writing of checkpoints does not count in the first; nor does the last step, which always has one.
    """
    last = FIRST + 10 * max(2, 12 // config.global_batch_size)
    saved: dict[str, float] = {}
    began = ended = 0.0
    for report in train(recipe, replace(config, num_steps=last + 1), data=data):
        if report.step == FIRST:
            began = time.process_time()
        if report.step == last:
            ended = time.process_time()
        if FIRST < report.step < last and report.checkpoint and os.environ["RANK"] == "0":
            mark = time.process_time()
            saved = save(report.checkpoint, folder)
            began += time.process_time() - mark
    return (ended - began) / (last - FIRST), saved


def save(checkpoint: State, folder: Path) -> dict[str, float]:
    """Write a checkpoint; returns what it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    checkpoint.copy().save(folder)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return {
        "checkpoint, rank 0 writing (CPU ms)": cpu * 1e3,
        "checkpoint, rank 0 writing, on this disk (ms)": wall * 1e3,
        "checkpoint, files": len(sizes),
        "checkpoint, size (kB)": sum(sizes) / 1e3,
    }


if __name__ == "__main__":
    main()
