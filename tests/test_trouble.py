"""The tables of README's "When something goes wrong": every row is run, and has to say and end as the table says.

The commands run in this process, on a Ray of three nodes. Whatever goes on after a fault has to lose no sample, train
none twice, and end with the weights of a run that nothing happened to.
"""

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from onehour.cli import main
from onehour.cluster.connect import stay_on_loopback
from onehour.show.doctor import memory_bytes
from onehour.training.checkpoint import read_facts
from onehour.training.record import examine, read_record
from onehour.training.run import Run

README = (Path(__file__).parents[1] / "README.md").read_text()
PATIENCE = 180
SLOW = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from onehour.recipes.toy import Toy

@dataclass(frozen=True)
class Slow(Toy):
    trouble: str = ""  # a file that says what is to happen in the loss of rank 1

    def loss(self, model, batch):
        time.sleep(0.02)
        if os.environ.get("RANK") == "1" and os.path.exists(self.trouble):
            trouble = Path(self.trouble).read_text()
            if trouble != "raise always":
                os.unlink(self.trouble)
            if trouble == "hang":
                time.sleep(1000)
            if trouble == "hoard":
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
    """A head without CPUs, where the controller is, and three nodes of two CPUs, the places of two workers and a spare."""
    import ray
    from ray.cluster_utils import Cluster

    stay_on_loopback()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
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
    "--num-epochs=1", "--global-batch-size=4", "--checkpoint-every=20", "--log-every=1", "--evaluate-every=None", "--audit",
    "--learning-rate=0.005",
)  # fmt: skip
NUM_STEPS = 420


class Training:
    """The command line at work on the cluster: in this process, or where it is to be killed, in one of its own."""

    def __init__(self, folder, cluster):
        self.folder, self.cluster, self.run = folder, cluster, Run(folder / "runs" / "slow-1")
        self.run.folder.parent.mkdir()
        (folder / "slow.py").write_text(SLOW)

    def line(self, *options, what="slow.py"):
        what = str(self.folder / what) if what.endswith(".py") else what
        return [
            "train", what, *OPTIONS, f"--num-steps={NUM_STEPS}", "--workers=2", "--cpus-per-worker=2",
            f"--runs={self.run.folder.parent}", f"--trouble={self.folder / 'trouble'}", *options,
        ]  # fmt: skip

    def end(self, *options, what="slow.py", at=30, fault=None, faults=()):
        """Train; let each fault happen after its step. Returns the exit code."""
        faults = [*faults, *([(at, fault)] if fault else [])]
        thread = threading.Thread(target=lambda: [(self.reach(step), happen()) for step, happen in faults])
        thread.start()
        try:
            main(self.line(*options, what=what))
        except SystemExit as end:
            return end.code
        finally:
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

    def trouble(self, kind):
        """What the recipe does to rank 1 in its next loss: raise, raise always, hang or hoard memory."""
        (self.folder / "trouble").write_text(kind)

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

    def kill_controller(self):
        self.kill("ray::TrainController")

    def damage_and_kill(self):
        file = self.run.checkpoints()[-1] / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        self.kill_worker()

    def ask_to_stop(self):
        os.kill(os.getpid(), signal.SIGTERM)


# What one training goes through, one fault after the other; the step after which each happens.
ON_THE_WAY = {
    "a node dies, and another has room": (50, Training.kill_node),
    "a worker is killed": (80, Training.kill_worker),
    "the newest checkpoint is damaged when a worker dies": (110, Training.damage_and_kill),
    "Ray's controller is killed": (140, Training.kill_controller),
    "a worker raises an exception": (170, lambda training: training.trouble("raise")),
    "a worker hangs for longer than `--hang-timeout`": (200, lambda training: training.trouble("hang")),
    "SIGTERM, or the first Ctrl-C": (220, Training.ask_to_stop),
}
THE_COMMAND_LINE = "the command line or the machine dies; then `onehour train --resume RUN`"


@pytest.fixture(scope="module")
def eventful(cluster, tmp_path_factory):
    """A training that all these faults happen to, and what was said after each; resumed twice, it comes to its end."""
    training = Training(tmp_path_factory.mktemp("eventful"), cluster)
    with training.elsewhere(at=30) as process:
        process.kill()
    said, places = io.StringIO(), {THE_COMMAND_LINE: 0}

    def happen(what, fault):
        places[what] = len(said.getvalue())
        fault(training)

    faults = [(step, partial(happen, what, fault)) for what, (step, fault) in ON_THE_WAY.items()]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        stopped = training.end("--hang-timeout=8s", "--max-failures=9", what="--resume=slow-1", faults=faults)
        at = training.run.newest_checkpoint()[0]
        assert read_facts(at)["step"] == training.run.rows()[-1]["step"] < NUM_STEPS
        ended = training.end(what="--resume=slow-1")
    begins = [*places.values(), len(said.getvalue())]
    parts = {what: said.getvalue()[begin:end] for what, begin, end in zip(places, begins[:-1], begins[1:], strict=True)}
    codes = {what: stopped if what.startswith("SIGTERM") else ended for what in places}
    return training, parts, codes


def a_node_out_of_memory(training):
    """With a Ray of its own, which is told that the node may use 4 GB more than now."""
    total, available = memory_bytes()
    if not available or available < 10e9:
        pytest.skip("takes 10 GB of memory, and a system that tells how much is available")
    limit = {"RAY_memory_usage_threshold": str(1 - (available - 4e9) / total), "RAY_memory_monitor_refresh_ms": "100"}
    threading.Thread(target=lambda: (training.reach(30), training.trouble("hoard"))).start()
    done = subprocess.run(
        [sys.executable, "-m", "onehour", *training.line("--cpus-per-worker=0.5")],
        env=os.environ | limit, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout + done.stderr)
    return done.returncode


def a_node_without_a_spare(training):
    """Of the nodes that are there, which may be two or three: all but one die."""
    nodes = len(training.cluster.worker_nodes)

    def kill():
        for _ in range(nodes - 2):
            training.cluster.remove_node(next(iter(training.cluster.worker_nodes)), allow_graceful=False)
        training.kill_node()

    code = training.end("--wait=6s", fault=kill)
    for _ in range(nodes - 1):
        training.cluster.add_node(num_cpus=2)
    training.cluster.wait_for_nodes()
    return code


def an_exception_twice(training):
    return training.end(fault=lambda: training.trouble("raise always"))


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


def two_wishes_to_stop(training):
    with training.elsewhere(at=30) as process:
        training.trouble("hang")
        time.sleep(1)  # the workers hang now: the step that the first wish lets them finish never is
        process.send_signal(signal.SIGINT)
        time.sleep(1.1)  # sooner, it would be torchrun's echo of the first
        process.send_signal(signal.SIGINT)
        print(process.communicate(timeout=PATIENCE)[0])
        return process.returncode


FAULTS = {
    "Ray ends a worker because its node runs out of memory": a_node_out_of_memory,
    "a node dies, and none has room": a_node_without_a_spare,
    "a worker raises the same exception again": an_exception_twice,
    "the disk is full": the_disk,
    "the storage can no longer be reached": the_storage,
    "the loss is no longer finite": a_loss_that_is_not_finite,
    "a second Ctrl-C": two_wishes_to_stop,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The checkpoint of a run of two workers that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "slow.py").write_text(SLOW)
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "onehour", "train",
         str(folder / "slow.py"), "--workers=0", f"--runs={folder}", f"--num-steps={NUM_STEPS}", *OPTIONS],
        check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return Run(folder / "slow-1")


@pytest.mark.long
@pytest.mark.parametrize(("what", "says", "code"), table("what happens"))
def test_a_fault(what, says, code, cluster, tmp_path, request, undisturbed, capsys):
    if what in FAULTS:
        training = Training(tmp_path, cluster)
        capsys.readouterr()
        ended = FAULTS[what](training)
        said = "".join(capsys.readouterr())  # what is told on the way, then why it ended
    else:
        training, parts, codes = request.getfixturevalue("eventful")
        said, ended = parts[what], codes[what]
    assert str(ended) == code, said
    check_said(said, says)
    assert said.count("Traceback") <= 1
    if ended == 0:
        check_nothing_lost(training.run, undisturbed, num_attempts=len(ON_THE_WAY) + 2 if what not in FAULTS else 2)


def check_nothing_lost(run, undisturbed, num_attempts):
    """Every sample once, and the weights of the run that nothing happened to: bit for bit at its number of workers."""
    facts = read_facts(run.checkpoint_at(NUM_STEPS))
    account = examine(read_record(run.audit_file), facts["attempt"], NUM_STEPS)
    assert (account.lost, account.twice, account.wrong, account.num_attempts) == (0, 0, [], num_attempts)
    losses = [[row["loss"] for row in each.rows()] for each in (run, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (each.checkpoint_at(NUM_STEPS) / name for each in (run, undisturbed))
        assert ours.read_bytes() == theirs.read_bytes()
