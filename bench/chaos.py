"""Faults at random moments into a real training: python bench/chaos.py [--faults 100] [--seed 1]

A cluster of several Ray nodes on this machine trains digits with two workers through the command line. Faults come one
after another, in an order drawn from the seed: a worker, a node, Ray's controller or the command line itself is killed
(SIGKILL), a checkpoint is damaged before a worker is killed, the disk is full or the storage gone for a while. After
each, training has to go on by itself; after the command line was killed or had to give up, by --resume, as a person
would. At the end the record of the run is examined, and its weights are compared with those of a run that nothing
happened to.

A row a fault: what the training said about it after how many seconds, the first new step after how many, steps done again.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onehour.cluster.connect import stay_on_loopback
from onehour.training.checkpoint import read_facts
from onehour.training.record import examine, read_record
from onehour.training.run import Run
from onehour.training.storage import checkpoints_in, open_storage

BALLAST = "ballast"
PATIENCE = 180
ABOUT_FAULTS = re.compile(r"^(A worker|Ray's controller|The checkpoint|onehour:|resumes)", re.MULTILINE)


class Chaos:
    """A cluster, a training on it, and the faults."""

    def __init__(self, folder: Path, seed: int) -> None:
        from ray.cluster_utils import Cluster

        self.folder, self.storage = folder, folder.parent / "storage"
        self.chance = random.Random(seed)
        self.kinds: list[Callable[[], None]] = []
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(3)]
        self.run = Run(folder / "chaos")
        self.process = self.begin("--name=chaos")

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the command line; it ends by itself only when the step that is asked for is reached."""
        command = [
            sys.executable, "-m", "onehour", "train", *([] if "--resume=chaos" in arguments else ["digits"]), *arguments,
            "--workers=2", "--cpus-per-worker=1", "--num-steps=10000000", "--schedule=constant", "--log-every=10",
            "--checkpoint-every=50", "--evaluate-every=None", "--audit", "--max-failures=1000", "--wait=2m",
            f"--address={self.cluster.address}", f"--runs={self.folder}", f"--storage={self.storage}",
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=(self.folder.parent / "said.txt").open("ab"), stderr=subprocess.STDOUT)

    def steps(self) -> int:
        """The step of the last row of metrics.jsonl, or 0."""
        if not self.run.metrics_file.is_file():
            return 0
        lines = self.run.metrics_file.read_text().splitlines()
        return int(json.loads(lines[-1])["step"]) if lines and lines[-1].endswith("}") else 0

    def said(self) -> str:
        """What the command line has printed."""
        return (self.folder.parent / "said.txt").read_text()

    def wait_until(self, done: Callable[[], bool], what: str) -> float:
        """Seconds until `done`; goes on with --resume if the command line has ended."""
        began = time.monotonic()
        while not done():
            if self.process.poll() is not None:
                (self.folder / BALLAST).unlink(missing_ok=True)
                self.process = self.begin("--resume=chaos")
            if time.monotonic() - began > PATIENCE:
                raise SystemExit(f"{what} has not come in {PATIENCE} s; the training said:\n{self.said()[-3000:]}")
            time.sleep(0.05)
        return time.monotonic() - began

    def fault(self) -> dict[str, Any]:
        """Wait a random while, let one fault happen, and wait until the training goes on."""
        reached = self.steps() + self.chance.randrange(60, 200)
        self.wait_until(lambda: self.steps() >= reached, "the step of the next fault")
        kind = self.next_kind()
        said, at = len(self.said()), self.steps()
        began = time.monotonic()
        kind()
        attempts = len(read_record(self.run.audit_file))
        told = self.wait_until(lambda: ABOUT_FAULTS.search(self.said()[said:]) is not None, "a word about the fault")
        self.wait_until(lambda: len(read_record(self.run.audit_file)) > attempts, "a new attempt")
        again = time.monotonic() - began
        newest = next(reversed(read_record(self.run.audit_file).values()))
        resumed = (newest.facts["from"] or {"step": 0})["step"]
        return {"fault": kind.__name__, "told": told, "again": again, "at": at, "done again": max(0, at - resumed)}

    def next_kind(self) -> Callable[[], None]:
        """Each kind once in a random order, then each once more in another."""
        if not self.kinds:
            self.kinds = [self.worker, self.node, self.controller, self.driver, self.damaged, self.unplugged]
            self.kinds += [self.full] * os.path.ismount(self.folder)  # never the machine's own disk
            self.chance.shuffle(self.kinds)
        return self.kinds.pop()

    def workers(self) -> list[int]:
        """The process numbers of the training's workers."""
        raylets = [str(node.all_processes["raylet"][0].process.pid) for node in self.cluster.list_all_nodes()]
        found = subprocess.run(
            ["pgrep", "-P", ",".join(raylets), "-f", "ray::RayTrainWorker"], capture_output=True, text=True, check=False
        )
        return [int(number) for number in found.stdout.split()]

    def worker(self) -> None:
        """SIGKILL to one worker."""
        os.kill(self.chance.choice(sorted(self.workers())), signal.SIGKILL)

    def node(self) -> None:
        """SIGKILL to a node that a worker is on, and a new node in its place."""
        by_raylet = {node.all_processes["raylet"][0].process.pid: node for node in self.nodes}
        parents = [parent_of(worker) for worker in sorted(self.workers())]
        doomed = by_raylet[self.chance.choice(parents)]
        self.nodes.remove(doomed)
        self.cluster.remove_node(doomed, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(num_cpus=1, wait=False))

    def controller(self) -> None:
        """SIGKILL to Ray Train's controller."""
        raylets = ",".join(str(node.all_processes["raylet"][0].process.pid) for node in self.cluster.list_all_nodes())
        found = subprocess.run(
            ["pgrep", "-P", raylets, "-f", "ray::TrainController"], capture_output=True, text=True, check=True
        )
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)

    def driver(self) -> None:
        """SIGKILL to the command line."""
        self.process.kill()
        self.process.wait()

    def damaged(self) -> None:
        """A bit of the newest checkpoint turns over, and a worker is killed."""
        file = self.run.checkpoints()[-1] / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[self.chance.randrange(len(content))] ^= 1
        file.write_bytes(content)
        self.worker()

    def unplugged(self) -> None:
        """The storage is gone until the training has said so; no worker is disturbed, so one is killed after that."""
        away, said = self.storage.with_name("unplugged"), len(self.said())
        self.storage.rename(away)
        self.storage.touch()
        self.wait_until(lambda: "could not be copied to" in self.said()[said:], "a word about the storage")
        self.storage.unlink()
        away.rename(self.storage)
        self.worker()

    def full(self) -> None:
        """The disk is full until the training gives up."""
        with (self.folder / BALLAST).open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def end(self) -> int:
        """SIGTERM: the last step is finished and saved. Returns its number."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=PATIENCE)
        self.cluster.shutdown()
        (checkpoint, _) = self.run.newest_checkpoint()
        assert checkpoint is not None
        return int(read_facts(checkpoint)["step"])


def parent_of(process: int) -> int:
    """The number of the parent of a process."""
    found = subprocess.run(["ps", "-o", "ppid=", "-p", str(process)], capture_output=True, text=True, check=True)
    return int(found.stdout)


def undisturbed(last: int, folder: Path) -> Path:
    """The checkpoint of a run of the same configuration that nothing happens to: two processes of torchrun."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "onehour", "train",
        "digits", "--workers=0", f"--num-steps={last}", "--schedule=constant", "--log-every=1000", "--evaluate-every=None",
        "--checkpoint-every=None", f"--runs={folder}", "--name=undisturbed",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return Run(folder / "undisturbed").checkpoint_at(last)


def main() -> None:
    """Let the faults happen and print what came of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    stay_on_loopback()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "disk"  # what the training says goes beside it, and is heard when the disk is full
        folder.mkdir()
        small = os.geteuid() == 0 and sys.platform == "linux"
        if small:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=True)
        try:
            go(Chaos(folder, arguments.seed), arguments.faults)
        finally:
            if small:
                subprocess.run(["umount", "--lazy", folder], check=True)


def go(chaos: Chaos, num_faults: int) -> None:
    """Rows of faults, and what they add up to."""
    for number in range(num_faults):
        row = chaos.fault()
        print(f"{number + 1:4}  {row['fault']:<11} at step {row['at']:>7,}   told after {row['told']:5.1f} s   "
              f"training again after {row['again']:5.1f} s   {row['done again']:>4} steps done again", flush=True)  # fmt: skip
    last = chaos.end()
    facts = read_facts(chaos.run.checkpoint_at(last))
    account = examine(read_record(chaos.run.audit_file), facts["attempt"], last)
    copied = checkpoints_in(open_storage(str(chaos.storage)), "chaos")[-1] == f"step_{last:07d}"
    with tempfile.TemporaryDirectory() as folder:
        reference = undisturbed(last, Path(folder))
        names = ("model.safetensors", "optimizer.safetensors")
        equal = all((reference / n).read_bytes() == (chaos.run.checkpoint_at(last) / n).read_bytes() for n in names)
    print(f"{num_faults} faults, {last:,} steps: {account.lost} samples lost, {account.twice} twice, "
          f"{len(account.wrong)} steps unproven, {account.done_again:,} steps done again, "
          f"weights and moments {'equal bit for bit' if equal else 'DIFFERENT'}, "
          f"the last checkpoint {'is' if copied else 'IS NOT'} in the storage")  # fmt: skip
    sys.exit(bool(account.lost or account.twice or account.wrong or not (equal and copied)))


if __name__ == "__main__":
    main()
