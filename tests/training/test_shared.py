"""Data are prepared once: another machine takes exactly those, and never prepares from what it sees itself."""

import dataclasses
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from onehour.cli import main
from onehour.config import ScaleConfig
from onehour.data import text
from onehour.data.prepare import cache_folder, prepare
from onehour.errors import InputError
from onehour.recipes.gpt import GPTRecipe
from onehour.recipes.toy import Toy
from onehour.training import shared
from onehour.training.loop import train
from onehour.training.run import create_run
from onehour.training.shared import find_data, publish, shared_data, take

TINY = ["--depth=1", "--context=16", "--global-batch-size=2", "--log-every=1", "--workers=0"]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(text, "PIECE_BYTES", 1000)
    (tmp_path / "corpus").mkdir()
    for i in range(30):
        (tmp_path / "corpus" / f"{i}.txt").write_text(f"document {i} of a corpus\n" * 9)
    return tmp_path / "corpus"


@pytest.fixture(params=["folder", "s3"])
def storage(request, tmp_path) -> str:
    return request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "storage")


def on_another_machine(monkeypatch, tmp_path, *gone: Path) -> None:
    """Another cache, and text that is not there."""
    for path in gone:
        shutil.rmtree(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-cache"))


def test_a_worker_on_another_machine_takes_what_was_published(corpus, storage, tmp_path, monkeypatch):
    recipe = GPTRecipe(text=str(corpus), context=16, depth=1)
    data = shared_data(recipe, storage)
    config = dataclasses.replace(recipe.defaults(), num_steps=4, global_batch_size=2, log_every=1, evaluate_every=2)
    metrics = [report.metrics["loss"] for report in train(recipe, config)]
    on_another_machine(monkeypatch, tmp_path, corpus)
    with pytest.raises(InputError, match="There is nothing at"):
        prepare(recipe)
    taken = take(data.index.name, data.digest, storage)
    assert taken.folder == tmp_path / "other-cache" / "onehour" / data.folder.name
    assert {p.name: p.read_bytes() for p in taken.folder.iterdir()} == {
        p.name: p.read_bytes() for p in data.folder.iterdir()
    }
    assert len(data.index.train) > 2
    assert [report.metrics["loss"] for report in train(recipe, config, data=taken)] == metrics
    assert [path.name for path in cache_folder().iterdir() if path.name.startswith(".")] == []


def test_what_is_in_the_storage_is_not_prepared_again(corpus, tmp_path, monkeypatch):
    recipe = GPTRecipe(text=str(corpus), context=16)
    data = shared_data(recipe, str(tmp_path / "storage"))
    on_another_machine(monkeypatch, tmp_path)
    monkeypatch.setattr(GPTRecipe, "prepare", None)
    monkeypatch.setattr(GPTRecipe, "rows_of", None)
    assert shared_data(recipe, str(tmp_path / "storage")).digest == data.digest


def test_a_run_goes_on_with_its_data_where_the_text_is_not(corpus, tmp_path, monkeypatch, capsys):
    storage = f"--storage={tmp_path / 'storage'}"
    main(["train", "gpt", *TINY, f"--text={corpus}", "--num-steps=2", f"--runs={tmp_path / 'runs'}", storage])
    on_another_machine(monkeypatch, tmp_path, corpus)
    runs = f"--runs={tmp_path / 'other-runs'}"
    main(["train", "--resume=gpt-1", "--workers=0", "--num-steps=4", runs, storage])
    assert "resumes    step_0000002" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):  # other data than it has begun with
        main(["train", "--resume=gpt-1", "--workers=0", "--num-steps=6", "--context=8", runs, storage])
    assert "There is nothing at " in capsys.readouterr().err


def test_a_run_that_does_not_know_the_name_of_its_data_goes_on_with_those_of_its_recipe(tmp_path, capsys):
    main(["train", "toy", "--workers=0", "--num-steps=2", f"--runs={tmp_path}"])
    index = tmp_path / "toy-1" / "data" / "data.json"
    content = json.loads(index.read_text())
    of_the_first_onehour = {"facts": content["facts"], "digest": content["digest"], "sizes": {}}
    index.write_text(json.dumps(of_the_first_onehour))
    main(["train", "--resume=toy-1", "--workers=0", "--num-steps=4", f"--runs={tmp_path}"])
    assert "resumes    step_0000002" in capsys.readouterr().out
    assert json.loads(index.read_text()) == content


def test_damage_in_the_storage_is_named_and_nothing_is_taken(corpus, tmp_path, monkeypatch):
    storage = str(tmp_path / "storage")
    data = shared_data(GPTRecipe(text=str(corpus), context=16), storage)
    shard = tmp_path / "storage" / "data" / data.folder.name / "train-00001.arrow"
    good = shard.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    shard.write_bytes(damaged)
    on_another_machine(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=r"train-00001.arrow of the data gpt-\w+ in .*storage has other bytes than"):
        find_data(data.index.name, storage)
    assert [path.suffix for path in cache_folder().iterdir()] == [".lock"]
    shard.write_bytes(good[:-1])  # found by its length
    with pytest.raises(InputError, match="neither in the cache of this node nor whole in"):
        take(data.index.name, data.digest, storage)
    publish(data, storage)
    assert take(data.index.name, data.digest, storage).digest == data.digest


def test_other_data_of_the_same_name_are_not_taken(corpus, tmp_path):
    data = prepare(GPTRecipe(text=str(corpus), context=16))
    with pytest.raises(InputError, match="neither in the cache of this node nor whole in"):
        take(data.index.name, "0" * 64, str(tmp_path / "storage"))


def test_data_too_large_for_the_cache_are_read_in_the_shared_folder(corpus, tmp_path, monkeypatch, s3):
    recipe, folder = GPTRecipe(text=str(corpus), context=16), str(tmp_path / "storage")
    data = shared_data(recipe, folder)
    publish(data, s3)
    on_another_machine(monkeypatch, tmp_path)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shared.shutil, "disk_usage", lambda path: usage(100))
    taken = take(data.index.name, data.digest, folder)
    assert taken.folder == tmp_path / "storage" / "data" / data.folder.name
    assert len(taken.train) == len(data.train)
    with pytest.raises(InputError, match=r"The data gpt-\w+ have 0\.0 GB, for which there is no room in "):
        take(data.index.name, data.digest, s3)


def test_a_storage_that_cannot_be_read_or_written_is_told(corpus, tmp_path, monkeypatch):
    data = prepare(GPTRecipe(text=str(corpus), context=16))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"The data gpt-\w+ cannot be written to .*file \(.*choose another --storage"):
        publish(data, str(tmp_path / "file"))
    on_another_machine(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=r"The data gpt-\w+ cannot be brought from foo://x to "):
        take(data.index.name, data.digest, "foo://x")


def test_a_recipe_without_pieces_is_shared_as_well(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    main(["prepare", "toy", f"--storage={tmp_path / 'storage'}"])
    assert "to train on" in capsys.readouterr().out
    data = prepare(Toy())
    on_another_machine(monkeypatch, tmp_path)
    assert take(data.index.name, data.digest, str(tmp_path / "storage")).digest == data.digest


def test_a_run_names_its_data_and_where_the_workers_find_them(tmp_path):
    run, data = create_run(tmp_path, None, "toy"), prepare(Toy())
    run.describe(Toy(), Toy().defaults(), ScaleConfig(), data)
    assert run.data("s3://bucket") == {"name": data.folder.name, "digest": data.digest, "storage": "s3://bucket"}
    assert run.data(None)["storage"] == str(tmp_path)
