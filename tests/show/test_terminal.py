import io
import sys
import threading

import pytest

from onehour.config import TrainConfig
from onehour.recipes.toy import Toy
from onehour.show.terminal import Progress, count, duration, in_bytes, plan_text, show_copying
from onehour.training.memory import Memory
from onehour.training.plan import Plan
from onehour.training.run import Run

ROW = {"step": 10, "num_steps": 1000, "loss": 0.5, "samples_per_second": 20.0, "learning_rate": 0.003}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (12, "12 B"), (3008, "3.0 kB"), (9949, "9.9 kB"), (9951, "10 kB"), (1.7e6, "1.7 MB"),
     (198e6, "198 MB"), (25e9, "25 GB"), (2.5e12, "2.5 TB")],
)  # fmt: skip
def test_bytes_in_the_unit_that_suits_them(number, text):
    assert in_bytes(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1 epoch"), (2, "2 epochs"), (0.0234, "0.0234 epochs"), (12345, "12,345 epochs")]
)
def test_one_and_many(number, text):
    assert count(number, "epoch") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (42.4, "42 s"), (99.6, "1:40 min"), (3599, "59:59 min"), (7500, "2:05 h")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_the_plan_of_a_small_run_has_no_zero_megabytes(tmp_path):
    plan = Plan(1, 2, 1, 50, 20.0, 5, 2, "5 points", Memory(752, 3008, 3008, 0, 600), 3008)
    text = plan_text(plan, Toy(), TrainConfig(global_batch_size=2, optimizer="sgd"), "this process", tmp_path)
    assert "weights 3.0 kB, gradients 3.0 kB, sgd 0 B, activations 600 B" in text
    assert "2 samples = 1 worker x 2 x 1 accumulated" in text
    assert "50, which is 20 epochs" in text
    assert {line[10] for line in text.splitlines()} == {" "}
    assert " " not in {line[11] for line in text.splitlines()}


def progress(rows, stdout, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stdout)
    shown = Progress(Toy(), TrainConfig(global_batch_size=2))
    for row in rows:
        shown.show(row)
    return stdout.getvalue()


def test_a_file_gets_what_stays_and_no_live_line(monkeypatch):
    rows = [ROW, ROW | {"held_out_loss": 0.25, "held_out_bits_per_byte": 2.0}, {"warning": "A worker died."}]
    assert progress(rows, io.StringIO(), monkeypatch) == (
        "step    10/1,000  loss 0.5000  20 samples/s  held out: loss 0.2500  bits per byte 2.0000\nA worker died.\n"
    )


def test_the_live_line_is_drawn_over_and_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    drawn = progress([ROW], Terminal(), monkeypatch)
    assert drawn == "\rstep    10/1,000  loss 0.5000  20 samples/s  lr 3.0e-03  99 s left\033[K\r"
    monkeypatch.setenv("COLUMNS", "30")
    assert len(progress([ROW], Terminal(), monkeypatch).strip("\r").removesuffix("\033[K")) == 29


def test_copying_shows_how_much_has_come(tmp_path, monkeypatch):
    drawn = threading.Event()

    class Seen(Terminal):
        def write(self, text):
            if "copying" in text:
                drawn.set()
            return super().write(text)

    terminal = Seen()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("onehour.show.terminal.COPYING_SECONDS", 0.01)
    monkeypatch.setenv("COLUMNS", "200")
    run, storage = Run(tmp_path / "runs" / "toy-1"), tmp_path / "storage"
    for folder, size in ((run.folder, 3000), (storage / "toy-1", 1000)):
        checkpoint = folder / "checkpoints" / "step_0000010"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(bytes(size))
    with show_copying(run, 10, str(storage)):
        assert drawn.wait(60)
    assert f"\rcopying to {storage}: 1.0 kB of 3.0 kB\033[K\r" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K\r")


def test_copying_says_nothing_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with show_copying(Run(tmp_path), 10, str(tmp_path)):
        pass
    assert sys.stdout.getvalue() == ""
