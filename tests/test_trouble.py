"""The tables of README's "When something goes wrong": every row is run, and has to say and end as the table says.

The commands run in this process, on a Ray of three nodes. Whatever goes on after a fault has to lose no sample, train
none twice, and end with the weights of a run that nothing happened to.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from onehour.cli import main
from onehour.cluster.connect import stay_on_loopback
from onehour.show.doctor import memory_bytes
from onehour.training.checkpoint import read_facts
from onehour.training.record import examine, read_record
from onehour.training.run import Run

README = (Path(__file__).parents[1] / "README.md").read_text()
PATIENCE = 90
SLOW = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from onehour.recipes.toy import Toy

CALLS = []

@dataclass(frozen=True)
class Slow(Toy):
    trouble: str = ""  # what happens to rank 1 in its loss
    seen: str = ""  # the file that tells that it has happened, so that it does not happen again

    def loss(self, model, batch):
        time.sleep(0.02)
        CALLS.append(1)
        again = self.seen and Path(self.seen).exists()
        if self.trouble and os.environ.get("RANK") == "1" and len(CALLS) == 35 and not again:
            if self.seen:
                Path(self.seen).touch()
            if self.trouble == "hang":
                time.sleep(1000)
            if self.trouble == "hoard":
                hoard = []
                while len(hoard) < 40:
                    hoard.append(bytearray(b"x") * 200_000_000)
            raise ArithmeticError("seven is not a number")
        return super().loss(model, batch)
"""


def table(heading):
    """The rows of the README's table whose first column is called so: each the text of its three cells."""
    rows = README.partition(f"| {heading} |")[2].split("\n\n")[0].splitlines()[2:]
    assert rows, f"README has no table {heading}"
    return [tuple(cell.strip() for cell in row.strip("| ").split(" | ")) for row in rows]


def check_said(said, expected):
    """Every quotation in the cell is in `said`, one after the other; … stands for anything."""
    said = " ".join(re.sub("[│╭╰╮╯─]", " ", said).split())
    for quotation in re.findall("`([^`]+)`", expected):
        for part in filter(None, map(str.strip, quotation.split("…"))):
            assert part in said, f"{part!r} is not in {said!r}"
            said = said.partition(part)[2]


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, where the controller is, and two nodes of two CPUs."""
    import ray
    from ray.cluster_utils import Cluster

    stay_on_loopback()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def folder_with_a_run(tmp_path_factory):
    """What the commands of the table find: a run toy-1, a short text, a recipe file without a recipe."""
    folder = tmp_path_factory.mktemp("mistakes")
    with contextlib.chdir(folder):
        main(["train", "toy", "--workers", "0", "--num-steps", "2"])
        Path("short.txt").write_text("too short")
        Path("mine.py").write_text("def f(x): return x\n")
    return folder


@pytest.mark.parametrize(("command", "says", "code"), table("what is asked"))
def test_a_mistake(command, says, code, folder_with_a_run, cluster, capsys, monkeypatch):
    monkeypatch.chdir(folder_with_a_run)
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(shlex.split(command.strip("`"))[1:])
    check_said(capsys.readouterr().err, says)
    assert str(end.value.code) == code


OPTIONS = (
    "--num-steps=100", "--num-epochs=1", "--global-batch-size=4", "--checkpoint-every=20", "--log-every=1",
    "--evaluate-every=None", "--audit", "--learning-rate=0.005",
)  # fmt: skip
EVERY_PLACE = "--cpus-per-worker=2"


class Training:
    """The command line at work on the cluster: in this process, or where it is to be killed, in one of its own."""

    def __init__(self, folder, cluster):
        self.folder, self.cluster, self.run = folder, cluster, Run(folder / "runs" / "slow-1")
        self.run.folder.parent.mkdir()
        (folder / "slow.py").write_text(SLOW)

    def line(self, *options, what="slow.py"):
        what = str(self.folder / what) if what.endswith(".py") else what
        return [
            "train",
            what,
            *OPTIONS,
            "--workers=2",
            "--cpus-per-worker=1",
            f"--runs={self.run.folder.parent}",
            *options,
        ]

    def end(self, *options, at=30, fault=None, what="slow.py"):
        """Train; let the fault happen after the step `at`. Returns the exit code."""
        thread = threading.Thread(target=lambda: (self.reach(at), fault()))
        if fault:
            thread.start()
        try:
            main(self.line(*options, what=what))
        except SystemExit as end:
            return end.code
        finally:
            if fault:
                thread.join()
        return 0

    @contextlib.contextmanager
    def elsewhere(self, *options, at):
        """Train in another process, which has come to step `at`."""
        command = [sys.executable, "-m", "onehour", *self.line(f"--address={self.cluster.address}", *options)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            self.reach(at)
            yield process
        finally:
            process.kill()
            process.wait()

    def reach(self, step):
        began = time.monotonic()
        while not self.run.metrics_file.is_file() or not self.run.rows() or self.run.rows()[-1]["step"] < step:
            assert time.monotonic() - began < PATIENCE
            time.sleep(0.05)

    def kill(self, kind):
        """SIGKILL to one of Ray's processes of this kind; returns the node that it was on."""
        for node in self.cluster.list_all_nodes():
            raylet = str(node.all_processes["raylet"][0].process.pid)
            found = subprocess.run(["pgrep", "-P", raylet, "-f", kind], capture_output=True, text=True, check=False)
            if found.stdout:
                os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
                return node
        raise AssertionError(f"there is no {kind}")

    def kill_worker(self):
        self.kill("ray::RayTrainWorker")

    def kill_node(self):
        """SIGKILL to a node that has a worker."""
        self.cluster.remove_node(self.kill("ray::RayTrainWorker"), allow_graceful=False)


def a_worker(training):
    return training.end(fault=training.kill_worker)


def a_node_out_of_memory(training):
    """With a Ray of its own, which is told that the node may use 4 GB more than now."""
    total, available = memory_bytes()
    if not available or available < 10e9:
        pytest.skip("takes 10 GB of memory, and a system that tells how much is available")
    limit = {"RAY_memory_usage_threshold": str(1 - (available - 4e9) / total), "RAY_memory_monitor_refresh_ms": "100"}
    line = training.line("--trouble=hoard", f"--seen={training.folder / 'seen'}", "--cpus-per-worker=0.5")
    done = subprocess.run(
        [sys.executable, "-m", "onehour", *line], env=os.environ | limit, capture_output=True, text=True, check=False
    )
    print(done.stdout + done.stderr)
    return done.returncode


def a_node_with_a_spare(training):
    code = training.end(fault=training.kill_node)
    training.cluster.add_node(num_cpus=2)
    return code


def a_node_without_a_spare(training):
    code = training.end(EVERY_PLACE, "--wait=6s", fault=training.kill_node)
    training.cluster.add_node(num_cpus=2)
    training.cluster.wait_for_nodes()
    return code


def the_controller(training):
    """Where the workers need every place of the cluster: those that the dead controller held, too."""
    return training.end(EVERY_PLACE, fault=lambda: training.kill("ray::TrainController"))


def an_exception_once(training):
    return training.end("--trouble=raise", f"--seen={training.folder / 'seen'}")


def an_exception_twice(training):
    return training.end("--trouble=raise")


def a_hang(training):
    return training.end("--trouble=hang", f"--seen={training.folder / 'seen'}", "--hang-timeout=8s")


def a_damaged_checkpoint(training):
    def fault():
        file = training.run.checkpoint_at(40) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        training.kill_worker()

    return training.end(at=50, fault=fault)


def the_disk(training):
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("mounting a small disk takes root on Linux")
    disk = training.run.folder.parent

    def fill():
        with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    try:
        code = training.end(fault=fill)
        newest, damaged = training.run.newest_checkpoint()
        assert newest is not None and damaged == []
        return code
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def the_storage(training):
    storage = training.folder / "storage"

    def unplug():
        storage.rename(training.folder / "unplugged")
        storage.touch()

    return training.end(f"--storage={storage}", fault=unplug)


def a_loss_that_is_not_finite(training):
    return training.end("--learning-rate=1e30")


def the_command_line(training):
    with training.elsewhere(at=30) as process:
        process.kill()
    return training.end(what="--resume=slow-1")


def a_wish_to_stop(training):
    code = training.end(fault=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert read_facts(training.run.newest_checkpoint()[0])["step"] == training.run.rows()[-1]["step"] < 100
    return code


def two_wishes_to_stop(training):
    with training.elsewhere("--trouble=hang", at=30) as process:
        time.sleep(1)  # the workers hang now: the step that the first wish lets them finish never is
        process.send_signal(signal.SIGINT)
        time.sleep(1.1)  # sooner, it would be torchrun's echo of the first
        process.send_signal(signal.SIGINT)
        print(process.communicate(timeout=PATIENCE)[0])
        return process.returncode


FAULTS = {
    "a worker is killed": a_worker,
    "Ray ends a worker because its node runs out of memory": a_node_out_of_memory,
    "a node dies, and another has room": a_node_with_a_spare,
    "a node dies, and none has room": a_node_without_a_spare,
    "Ray's controller is killed": the_controller,
    "a worker raises an exception": an_exception_once,
    "a worker raises the same exception again": an_exception_twice,
    "a worker hangs for longer than `--hang-timeout`": a_hang,
    "the newest checkpoint is damaged when a worker dies": a_damaged_checkpoint,
    "the disk is full": the_disk,
    "the storage can no longer be reached": the_storage,
    "the loss is no longer finite": a_loss_that_is_not_finite,
    "the command line or the machine dies; then `onehour train --resume RUN`": the_command_line,
    "SIGTERM, or the first Ctrl-C": a_wish_to_stop,
    "a second Ctrl-C": two_wishes_to_stop,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The checkpoint of a run of two workers that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "slow.py").write_text(SLOW)
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "onehour", "train",
         str(folder / "slow.py"), "--workers=0", f"--runs={folder}", *OPTIONS],
        check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return Run(folder / "slow-1")


@pytest.mark.parametrize(("what", "says", "code"), table("what happens"))
def test_a_fault(what, says, code, cluster, tmp_path, undisturbed, capsys):
    training = Training(tmp_path, cluster)
    capsys.readouterr()
    ended = FAULTS[what](training)
    said = "".join(capsys.readouterr())  # what is told on the way, then why it ended
    assert str(ended) == code, said
    check_said(said, says)
    assert said.count("Traceback") <= 1
    if ended == 0:
        check_nothing_lost(training.run, undisturbed)


def check_nothing_lost(run, undisturbed):
    """Every sample once, and the weights of the run that nothing happened to: bit for bit at its number of workers."""
    facts = read_facts(run.checkpoint_at(100))
    account = examine(read_record(run.audit_file), facts["attempt"], 100)
    assert (account.lost, account.twice, account.wrong, account.num_attempts) == (0, 0, [], 2)
    losses = [[row["loss"] for row in each.rows()] for each in (run, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    if next(iter(read_record(run.audit_file).values())).facts["num_workers"] == 2:
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert (run.checkpoint_at(100) / name).read_bytes() == (undisturbed.checkpoint_at(100) / name).read_bytes()
