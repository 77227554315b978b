import os
import re
import socket
from pathlib import Path

import pytest
from tiny import write_conversations, write_tiny

from onehour.cluster.local import LocalCluster, keeper_lock, state_file
from onehour.cluster.ports import answers
from onehour.errors import InputError
from onehour.recipes.finetune import FineTune
from onehour.recipes.gpt import GPTRecipe
from onehour.show import doctor
from onehour.show.doctor import GB, Finding, examine


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """A machine without a Ray cluster, with memory to spare; the findings by name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "RAY_NOTE", tmp_path / "ray_current_cluster")
    monkeypatch.setattr(doctor, "memory_bytes", lambda: (16 * GB, 8 * GB))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return lambda: {finding.name: finding for finding in examine(tmp_path / "runs")}


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_healthy_machine(healthy, tmp_path):
    findings = healthy()
    assert not [finding for finding in findings.values() if finding.trouble]
    assert {"system", "packages", "cpu", "memory", "runs", "data", "Ray", "text"} <= set(findings)
    assert "torch 2" in findings["packages"].text
    assert findings["memory"].text == "16 GB, 8.0 GB available"
    assert str(tmp_path / "runs") in findings["runs"].text
    assert not (tmp_path / "runs").exists()  # it only looks
    assert os.environ["XDG_CACHE_HOME"] in findings["data"].text


def test_lines_are_aligned_and_trouble_begins_with_a_mark():
    assert Finding("runs", "fine").line() == "  runs       fine"
    assert Finding("runs", "not fine", trouble=True).line() == "! runs       not fine"


def test_little_memory(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "memory_bytes", lambda: (2 * GB, GB // 2))
    assert healthy()["memory"].trouble


def test_the_memory_of_this_machine():
    total, available = doctor.memory_bytes()
    assert GB // 4 < total < 10**14
    assert available is None or available <= total


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    finding = doctor.storage("runs", tmp_path / "file" / "runs", "runs cannot be kept", "choose another")
    assert finding.trouble
    assert (
        finding.text == f"{tmp_path}/file/runs: runs cannot be kept, as {tmp_path}/file is no folder; choose another."
    )


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "disk_usage", lambda path: type("Usage", (), {"free": 12_000_000}))
    finding = doctor.storage("runs", tmp_path, "runs cannot be kept", "choose another")
    assert (finding.trouble, "only 12 MB are free" in finding.text) == (True, True)


def test_a_cluster_that_has_ended_and_one_that_runs(healthy, port):
    doctor.RAY_NOTE.write_text("127.0.0.1:1")
    assert "remove that file" in healthy()["cluster"].text
    assert healthy()["cluster"].trouble
    doctor.RAY_NOTE.write_text(f"127.0.0.1:{port}\n")
    assert not healthy()["cluster"].trouble


def test_a_cluster_of_this_machine(healthy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    state_file().parent.mkdir()
    LocalCluster("127.0.0.1:1", "http://127.0.0.1:2", tmp_path, 1, 4).write(state_file())
    with keeper_lock():
        assert healthy()["cluster"].text.startswith("1 node of 4 CPUs by onehour cluster start, at 127.0.0.1:1: ")
    assert "cluster" not in healthy()


def test_an_address_that_does_not_answer(healthy, monkeypatch, port):
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    assert "unset RAY_ADDRESS" in healthy()["RAY_ADDRESS"].text
    assert healthy()["RAY_ADDRESS"].trouble
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{port}/")
    assert not healthy()["RAY_ADDRESS"].trouble
    assert answers("auto")


def test_a_token_is_no_trouble(healthy):
    (Path.home() / ".ray").mkdir()
    (Path.home() / ".ray" / "auth_token").touch()
    assert "RAY_AUTH_MODE=token" in healthy()["token"].text
    assert not healthy()["token"].trouble


def test_missing_packages_and_extras(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "installed", lambda name: None if name in ("ray", "tyro") else "1.0")
    findings = healthy()
    assert findings["packages"].text.startswith("ray and tyro missing")
    assert "only --workers 0 works" in findings["Ray"].text
    assert not findings["extra"].trouble
    assert "pip install 'onehour[" in findings["extra"].text


def test_a_python_without_its_sources(healthy, monkeypatch):
    def none():
        raise InputError("This Python has no sources: name a file.")

    monkeypatch.setattr(doctor, "standard_library", none)
    assert healthy()["text"].trouble
    assert "--text" in healthy()["text"].text


def test_shared_memory_that_is_too_small_is_told(healthy, monkeypatch):
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm")
    monkeypatch.setattr(doctor, "disk_usage", lambda path: type("Usage", (), {"free": 2 * GB}))
    assert "--shm-size" in healthy()["Ray"].text


def test_the_memory_of_a_training_that_fits_and_of_one_that_does_not(monkeypatch):
    recipe = GPTRecipe(depth=1, context=32, text=str(Path(__file__).parents[2] / "LICENSE"))
    monkeypatch.setattr(doctor, "memory_bytes", lambda: (16 * GB, 8 * GB))
    finding = doctor.memory_of_training(recipe, recipe.defaults())
    assert not finding.trouble
    assert re.fullmatch(
        r"gpt by one worker takes [\d.]+ MB at most, at a moment with weights .*, gradients .*, optimizer .*, activations .*; "
        r"Python and torch take some 350 MB beside it, and a CPU's memory holds much of what was freed, .*",
        finding.text,
    )
    monkeypatch.setattr(doctor, "memory_bytes", lambda: (GB, GB // 4))
    finding = doctor.memory_of_training(recipe, recipe.defaults())
    assert finding.trouble
    assert "more than the 250 MB available here; try a smaller --micro-batch-size, or" in finding.text


def test_the_memory_of_a_training_that_begins_with_weights_from_a_file(tmp_path):
    write_tiny(tmp_path / "tiny")
    write_conversations(tmp_path / "talk.jsonl")
    recipe = FineTune(str(tmp_path / "tiny"), str(tmp_path / "talk.jsonl"), context=160)
    told = doctor.memory_of_step(recipe, recipe.defaults())
    assert told.pop("total") == sum(told.values())
    assert told["optimizer"] == 2 * told["gradients"] < told["weights"]  # AdamW, and LoRA's narrow matrices
