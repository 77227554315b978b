"""Many workers prepare what one process prepares, byte for byte."""

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onehour.cli import main
from onehour.data import text
from onehour.recipes.gpt import GPTRecipe
from onehour.training.loop import train
from onehour.training.shared import find_data, shared_data

KILLED = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from onehour.recipes.gpt import GPTRecipe

@dataclass(frozen=True)
class Killed(GPTRecipe):
    marker: str = ""

    def rows_of(self, piece, folder):
        for rows in super().rows_of(piece, folder):
            yield rows
            if not Path(self.marker).exists():
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def ray_and_s3(s3, local_ray):
    """Ray's workers have the environment of its start, with the keys of the storage."""
    return s3


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Row groups of 2 kB, and pieces of one row group."""
    monkeypatch.setattr(text, "PIECE_BYTES", 2000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "corpus").mkdir()
    for name in "ab":
        rows = [f"{name}{i}: some words of text, {i * 7} of them\n" * 2 for i in range(200)]
        pq.write_table(pa.table({"text": rows}), tmp_path / "corpus" / f"{name}.parquet", row_group_size=50)
    return tmp_path / "corpus"


def files(folder):
    (data,) = [path for path in folder.iterdir() if path.is_dir()]
    return {path.name: path.read_bytes() for path in data.iterdir()}


@pytest.mark.parametrize("vocab_size", [256, 300])
def test_any_number_of_workers_writes_the_same_bytes(corpus, tmp_path, ray_and_s3, capsys, vocab_size):
    arguments = ["prepare", "gpt", f"--text={corpus}", "--context=16", f"--vocab-size={vocab_size}"]
    for workers in (0, 1, 2, 3):
        main([*arguments, f"--workers={workers}", f"--storage={tmp_path / str(workers)}"])
    main([*arguments, "--workers=2"])
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.count("samples ") == 5
    expected = files(tmp_path / "0" / "data")
    assert len(expected) == 8 + 2 + (vocab_size > 256)  # shards, held_out.arrow and data.json, the tokenizer
    for workers in (1, 2, 3):
        assert files(tmp_path / str(workers) / "data") == expected
    assert files(tmp_path / "cache" / "onehour") == expected


def test_workers_are_processes_that_work_side_by_side(corpus, tmp_path, ray_and_s3):
    from onehour.cluster.prepare import on_ray
    from onehour.data.shards import FileSum

    folder = tmp_path / "seen"
    folder.mkdir()

    def meet(number):
        """Waits until three are here."""
        import time

        (folder / str(number)).touch()
        while len(list(folder.iterdir())) < 3:
            time.sleep(0.01)
        return FileSum(str(number), os.getpid(), "")

    made = list(on_ray(meet, range(3), workers=3))
    assert sorted(file.name for file in made) == ["0", "1", "2"]
    assert len({file.num_bytes for file in made} - {os.getpid()}) == 3


def test_a_worker_that_is_killed_changes_nothing(corpus, tmp_path, ray_and_s3, monkeypatch):
    (tmp_path / "killed.py").write_text(KILLED)
    arguments = ["prepare", str(tmp_path / "killed.py"), f"--text={corpus}", "--context=16", "--workers=2"]
    main([*arguments, f"--marker={tmp_path / 'marker'}", f"--storage={tmp_path / 'killed'}"])
    assert (tmp_path / "marker").exists()
    main(["prepare", "gpt", f"--text={corpus}", "--context=16", f"--storage={tmp_path / 'undisturbed'}"])
    killed, undisturbed = files(tmp_path / "killed" / "data"), files(tmp_path / "undisturbed" / "data")
    del killed["data.json"], undisturbed["data.json"]  # it has the recipe's name
    assert killed == undisturbed


def test_text_on_s3_is_prepared_onto_s3_and_taken_from_there(corpus, tmp_path, ray_and_s3, monkeypatch, capsys):
    """With the endpoint in the environment, and the data in the cache of a machine that cannot see the text."""
    import pyarrow.fs

    endpoint = ray_and_s3.partition("endpoint_override=")[2].partition("&")[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{endpoint}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket, _ = pyarrow.fs.FileSystem.from_uri("s3://bucket")
    pyarrow.fs.copy_files(str(corpus), "bucket/corpus", pyarrow.fs.LocalFileSystem(), bucket)
    main(["prepare", "gpt", "--text=s3://bucket/corpus/*.parquet", "--context=16", "--workers=2",
          "--storage=s3://bucket/prepared"])  # fmt: skip
    (name,) = [word.rpartition("/")[2] for word in capsys.readouterr().out.split() if word.startswith("data/gpt-")]
    bucket.delete_dir("bucket/corpus")
    data = find_data(name, "s3://bucket/prepared")
    assert data is not None
    assert data.folder == tmp_path / "cache" / "onehour" / name

    here = shared_data(GPTRecipe(text=str(corpus), context=16), None)
    assert data.digest == here.digest
    recipe = GPTRecipe(text="s3://bucket/corpus/*.parquet", context=16, depth=1)
    config = GPTRecipe(depth=1).defaults().__class__(num_steps=3, global_batch_size=4, log_every=1)
    losses = [report.metrics["loss"] for report in train(recipe, config, data=data)]
    local = GPTRecipe(text=str(corpus), context=16, depth=1)
    assert losses == [report.metrics["loss"] for report in train(local, config)]


def test_more_workers_than_the_cluster_has_cores_are_refused(corpus, ray_and_s3, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["prepare", "gpt", f"--text={corpus}", "--workers=99"])
    told = capsys.readouterr().err
    assert told == (
        "onehour: 99 workers with a CPU core each do not fit on 1 node with 8 CPU cores in all; use --workers 8.\n"
    )


def test_a_file_that_a_worker_cannot_read_or_write_is_a_sentence(corpus, tmp_path, ray_and_s3, capsys, monkeypatch):
    damaged = bytearray((corpus / "b.parquet").read_bytes())
    damaged[1000:1500] = b"\xff" * 500
    (corpus / "b.parquet").write_bytes(damaged)
    with pytest.raises(SystemExit, match="2"):
        main(["prepare", "gpt", f"--text={corpus}", "--context=16", "--workers=2"])
    told = capsys.readouterr().err
    assert "b.parquet is not a Parquet file that can be read (" in told
    shutil.rmtree(corpus)
