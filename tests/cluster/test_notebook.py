"""The interrupt button of a notebook, with a real kernel: once finishes the step and saves, twice ends at once."""

import os
import subprocess
import time

import pytest
from jupyter_client.manager import KernelManager

PATIENCE = 250
SLOW = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from onehour.recipes.toy import Toy

@dataclass(frozen=True)
class Slow(Toy):
    hang: str = "hang"  # while this file is there, the last rank gets no further

    def loss(self, model, batch):
        while Path(self.hang).exists() and os.environ.get("RANK", "1") == "1":
            time.sleep(0.1)
        time.sleep(0.02)
        return super().loss(model, batch)
"""
FIRST = """
import dataclasses
from pathlib import Path
from onehour import ScaleConfig, create_run, find_recipe, keep, prepare, stop_requests, train
from onehour.cluster.launch import train_on_ray

recipe = dataclasses.replace(find_recipe("slow.py")(), hang=str(Path("hang").absolute()))
config = dataclasses.replace(recipe.defaults(), num_steps=100_000, checkpoint_every=1000, evaluate_every=None)
run = create_run(Path("runs"), None, "slow")
run.describe(recipe, config, ScaleConfig(), prepare(recipe))
"""
HERE = """
with stop_requests() as wish:
    for report in keep(train(recipe, config, run.newest_checkpoint()[0], wish.is_set), run):
        print("step", report.step, "interrupted" if report.interrupted else "", end=".\\n")
"""
ON_RAY = """
for row in train_on_ray(recipe, config, ScaleConfig(workers=2, cpus_per_worker=0.5), run):
    print(row.get("warning") or f"step {row['step']}", "interrupted" if row.get("interrupted") else "", end=".\\n")
"""


class Kernel:
    """A kernel in a folder, and whoever sits before it."""

    def __init__(self, folder):
        (folder / "slow.py").write_text(SLOW)
        self.hang = folder / "hang"
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env=os.environ | {"OMP_NUM_THREADS": "1"})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def cell(self, code, **does):
        """Run a cell; when it prints a word, do what `does` says of it, once. Returns what it printed and how it ended."""
        said = []

        def hear(message):
            said.append(message["content"].get("text", ""))
            for word in [word for word in does if word in said[-1]]:
                does.pop(word)()

        reply = self.client.execute_interactive(code, output_hook=hear, timeout=PATIENCE)
        assert not does, "".join(said)
        return "".join(said), reply["content"].get("ename", "ok")

    def interrupt(self):
        self.manager.interrupt_kernel()

    def hang_and_interrupt(self):
        self.hang.touch()
        self.interrupt()

    def interrupt_again(self):
        time.sleep(1.1)  # sooner, it would be torchrun's echo of the first
        self.interrupt()

    def children(self):
        """The processes that the kernel has started and that are still there."""
        kernel = str(self.manager.provisioner.pid)
        listed = subprocess.run(
            ["ps", "-o", "stat=,args=", "--ppid", kernel], capture_output=True, text=True, check=False
        )
        return [line for line in listed.stdout.splitlines() if not line.startswith("Z")]


@pytest.fixture
def kernel(tmp_path):
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def test_a_training_in_the_cell_itself(kernel):
    kernel.cell(FIRST)
    said, ended = kernel.cell(HERE, step=kernel.interrupt)
    assert ended == "ok" and said.endswith("interrupted.\n")
    kernel.cell("config = dataclasses.replace(config, log_every=1)")
    second, ended = kernel.cell(HERE, step=lambda: (kernel.hang_and_interrupt(), kernel.interrupt_again()))
    assert ended == "KeyboardInterrupt"
    steps = [int(text.split()[1]) for text in (said.splitlines()[-1], second.splitlines()[0])]
    assert steps[1] == steps[0] + 1, "the second cell did not go on where the first one had stopped"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_training_on_ray(kernel):
    """Interrupted once: saved. Twice, in workers that hang: over, Ray is gone, and the next cell trains again."""
    kernel.cell(FIRST)
    said, ended = kernel.cell(ON_RAY, step=kernel.interrupt)
    assert ended == "ok" and said.endswith("interrupted.\n"), said
    said, ended = kernel.cell(ON_RAY, step=kernel.hang_and_interrupt, Asked=kernel.interrupt_again)
    assert ended == "KeyboardInterrupt", said
    assert kernel.children() == []

    kernel.hang.unlink()
    kernel.cell("config = dataclasses.replace(config, num_steps=run.rows()[-1]['step'] + 5)")
    said, ended = kernel.cell(ON_RAY)
    assert ended == "ok" and said.splitlines()[-1].startswith("step"), said
    assert kernel.children() == []
