"""Keeping a training: what stays of its checkpoints, what a full disk does, and how a wish to stop is heard."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from onehour.errors import DivergedError, InputError, TrainingError
from onehour.recipes.digits import Digits
from onehour.recipes.toy import Toy
from onehour.training import clock
from onehour.training.checkpoint import State, read_facts
from onehour.training.clock import Clock
from onehour.training.interrupt import stop_requests
from onehour.training.keep import append, check_room, keep, save
from onehour.training.loop import train
from onehour.training.run import create_run


def config_of(recipe, **changes):
    return dataclasses.replace(recipe.defaults(), **changes)


def test_the_newest_checkpoints_stay_and_the_best(tmp_path):
    run = create_run(tmp_path, None, "toy")
    for step, loss in enumerate([3.0, 1.0, None, 2.0, None, 4.0], start=1):
        save(State({}, {"step": step, "held_out_loss": loss}), run, 2)
    assert run.checkpoints() == [run.checkpoint_at(step) for step in (2, 5, 6)]
    assert run.best_checkpoint() == run.checkpoint_at(2)
    (run.checkpoint_at(2) / "checkpoint.json").write_text('{"held_ou')  # damaged: it does not stop the next one
    save(State({}, {"step": 7, "held_out_loss": 5.0}), run, 2)
    assert run.best_checkpoint() == run.checkpoint_at(6)


def test_an_error_of_the_data_is_not_told_as_a_full_disk(tmp_path):
    def reports():
        yield from ()
        raise FileNotFoundError("train.arrow")

    with pytest.raises(FileNotFoundError, match=r"train\.arrow"):
        list(keep(reports(), create_run(tmp_path, None, "toy")))


def test_what_a_killed_writer_left_is_swept(tmp_path):
    run = create_run(tmp_path, None, "toy")
    (run.folder / "checkpoints" / ".step_0000002-abc").mkdir(parents=True)
    list(keep(train(Toy(), config_of(Toy(), num_steps=2)), run))
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step_0000002"]


def test_a_checkpoint_is_of_its_step_though_the_training_goes_on(tmp_path):
    """The weights that a thread writes are those at the step of the report, not those of the steps after it."""
    short, long = create_run(tmp_path, None, "short"), create_run(tmp_path, None, "long")
    list(keep(train(Toy(), config_of(Toy(), num_steps=10, schedule="constant")), short))
    list(keep(train(Toy(), config_of(Toy(), num_steps=50, checkpoint_every=10, schedule="constant")), long))
    for name in ("model", "optimizer", "random"):
        paths = [run.checkpoint_at(10) / f"{name}.safetensors" for run in (short, long)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk takes root on Linux")
def test_a_disk_that_fills_up_loses_no_checkpoint(tmp_path):
    """A disk of 2 MB: the checkpoints of half a megabyte fit in until they do not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    try:
        run = create_run(disk, None, "digits")
        config = config_of(Digits(), num_steps=60, checkpoint_every=5, evaluate_every=None)
        with pytest.raises(
            TrainingError, match=r"The run digits-1 could not be kept .*No space left on device.*; make room"
        ):
            list(keep(train(Digits(), config), run))
        good, damaged = run.newest_checkpoint()
        assert good is not None and damaged == []
        assert read_facts(good)["step"] >= 5
        assert not list((run.folder / "checkpoints").glob(".*"))
        ballast = sorted(run.checkpoints())[:-1]
        for folder in ballast:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
        (last,) = list(
            keep(train(Digits(), dataclasses.replace(config, num_steps=read_facts(good)["step"] + 1), good), run)
        )
        assert last.step == read_facts(good)["step"] + 1
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_without_room_is_refused_before_the_work(tmp_path):
    with pytest.raises(
        InputError, match=r"3 checkpoints of 10,000,000,000 MB need .* MB free; make room, use --keep 1"
    ):
        check_room(tmp_path / "not" / "there", 10**16, 3)
    check_room(tmp_path, 1, 3)


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n{"st')
    append(path, [{"step": 2}, {"step": 3}])
    append(path, [])
    assert path.read_text() == '{"step": 1}\n{"st\n{"step": 2}\n{"step": 3}\n'


def test_a_wish_to_stop_ends_with_a_checkpoint_and_loses_no_step(tmp_path, monkeypatch):
    """The steps before and after the stop, together, are those of a run that nobody stopped."""
    monkeypatch.setattr(clock, "ASK_SECONDS", 0.0)
    config = config_of(Digits(), num_steps=60, log_every=1, evaluate_every=None, schedule="constant")
    whole = [report.metrics["loss"] for report in train(Digits(), config)]
    run, asked = create_run(tmp_path, None, "digits"), []
    parts = []
    for report in keep(train(Digits(), config, None, lambda: bool(asked)), run):
        parts.append(report)
        if report.step == 10:
            asked.append(True)
    assert parts[-1].interrupted and parts[-1].checkpoint and 10 < parts[-1].step < 60
    assert run.rows()[-1]["interrupted"]
    parts += train(Digits(), config, run.newest_checkpoint()[0])
    assert [report.metrics["loss"] for report in parts] == whole


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "ASK_SECONDS", 0.0)
    run = create_run(tmp_path, None, "digits")
    config = config_of(Digits(), num_steps=100, log_every=1000, evaluate_every=None, checkpoint_every="0.01s")
    reports = list(keep(train(Digits(), config), run))
    assert len(reports) > 1
    assert all(report.checkpoint for report in reports)


def test_the_clock_asks_about_once_a_second(monkeypatch):
    """Steps of an eighth of a second: asked after the first, and then after every eighth."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    calls = []
    worker = type("Alone", (), {"world_size": 1, "device": "cpu"})()
    watch = Clock(lambda: bool(calls.append(now[0])), None, 0, worker)
    for step in range(1, 35):
        now[0] += 0.125
        watch.ask(step)
    assert calls == [0.125, 1.125, 2.125, 3.125, 4.125]


def test_the_first_signal_is_a_wish_and_a_later_one_ends(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as wish:
        assert not wish.is_set()
        signal.raise_signal(signal.SIGINT)
        assert wish.is_set()
        now[0] = 0.5
        signal.raise_signal(signal.SIGINT)  # torchrun's echo of the same key
        now[0] = 2.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_signals_stay_as_they_are():
    wishes = []

    def elsewhere():
        with stop_requests() as wish:
            wishes.append(wish.is_set())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert wishes == [False]


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    run = create_run(tmp_path, None, "toy")
    code = (
        "import sys, time; from pathlib import Path; from onehour.training.run import Run\n"
        "with Run(Path(sys.argv[1])).lock(): print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, run.folder], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(InputError, match=r"The run toy-1 is being trained by another process"), run.lock():
        pass
    holder.kill()
    holder.wait()
    with run.lock():
        pass


def test_the_samples_of_a_step_that_diverges_are_kept(tmp_path):
    run = create_run(tmp_path, None, "toy")
    config = config_of(Toy(), num_steps=200, learning_rate=1e30, clip=None, optimizer="sgd", log_every=1)
    with pytest.raises(DivergedError, match=r"The training diverged at step \d+: ") as error:
        list(keep(train(Toy(), config), run))
    kept = json.loads((run.folder / "diverged.json").read_text())
    assert kept == {"step": error.value.step, "sample_ids": error.value.sample_ids}
    assert len(kept["sample_ids"]) == config.global_batch_size
