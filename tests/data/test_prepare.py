"""Data are prepared in pieces that do not depend on who prepares them; what is whole stays, what is not is made anew."""

import hashlib
import os
import subprocess
import sys
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onehour.cli import main
from onehour.data import text
from onehour.data.arrow import Rows
from onehour.data.prepare import cache_folder, data_name, prepare
from onehour.data.sources import find_text
from onehour.data.text import cut, read_documents, train_documents
from onehour.errors import InputError
from onehour.recipes.gpt import GPTRecipe

CONTEXT = 16
PIECE_BYTES = 1000
# Where the pieces are small, as the command line knows no option for that.
SMALL = f"from onehour.data import text; text.PIECE_BYTES = {PIECE_BYTES}; from onehour.cli import main; main()"


def held_out(name):
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0


def write_corpus(folder, suffix=""):
    """Two Parquet files with row groups of 25 rows, among them a null, and two files of text."""
    folder.mkdir()
    for name, num_rows in (("a", 130), ("c", 60)):
        rows = [None if i == 7 else f"{name}{i}: {'tokens ' * (i % 9)}\n{suffix}" for i in range(num_rows)]
        pq.write_table(pa.table({"text": rows, "id": range(num_rows)}), folder / f"{name}.parquet", row_group_size=25)
    (folder / "b.txt").write_text("a file of text " * 50)
    (folder / "d.txt").write_text("another file of text " * 300)
    return folder


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_corpus(tmp_path / "corpus")


def reference(corpus):
    """The rows of each shard, in plain Python: pieces are consecutive units of at least PIECE_BYTES."""
    units = []
    for path in sorted(corpus.iterdir()):
        if path.suffix == ".txt":
            units.append((path.stat().st_size, [(path.name, path.read_text())]))
            continue
        rows, metadata = pq.read_table(path)["text"].to_pylist(), pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).column(0).total_uncompressed_size
            numbered = range(25 * group, min(25 * group + 25, len(rows)))
            units.append((size, [(f"{path.name}#{i}", rows[i]) for i in numbered if rows[i] is not None]))
    shards, tokens, filled = [], b"", 0
    for number, (size, documents) in enumerate(units):
        tokens += b"".join(document.encode() + b"\0" for name, document in documents if not held_out(name))
        filled += size
        if filled >= PIECE_BYTES or number == len(units) - 1:
            starts = range(0, len(tokens) - CONTEXT, CONTEXT)
            shards.append([list(tokens[start : start + CONTEXT + 1]) for start in starts])
            tokens, filled = b"", 0
    return shards


def test_each_shard_has_the_windows_of_its_documents(corpus):
    data = prepare(GPTRecipe(text=str(corpus), context=CONTEXT))
    shards = reference(corpus)
    assert len(shards) > 3
    assert [file.name for file in data.index.train] == [f"train-{number:05d}.arrow" for number in range(len(shards))]
    assert [file.num_rows for file in data.index.train] == [len(rows) for rows in shards]
    for file, rows in zip(data.index.train, shards, strict=True):
        shard = Rows(data.folder / file.name)
        assert shard[range(len(shard))]["tokens"].tolist() == rows
    assert data.train[range(len(data.train))]["tokens"].tolist() == list(chain.from_iterable(shards))


def test_a_corpus_of_one_piece_is_one_file_with_the_windows_of_all_its_documents(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_corpus(tmp_path / "corpus")
    data = prepare(GPTRecipe(text=str(folder), context=CONTEXT))
    assert [file.name for file in data.index.files] == ["held_out.arrow", "train.arrow"]
    tokens = b"".join(document + b"\0" for document in text.split_documents(find_text(str(folder)))[0])
    rows = data.train[range(len(data.train))]["tokens"][:, :-1]
    assert bytes(rows.ravel().tolist()) == tokens[: rows.numel()]


def test_pieces_have_every_document_once_and_read_no_other(corpus):
    sources = find_text(str(corpus))
    pieces = cut(sources)
    together = [document for piece in pieces for document in read_documents(piece.sources)]
    assert together == list(read_documents(sources))
    trained = [document for piece in pieces for document in train_documents(piece)]
    assert trained == list(text.split_documents(sources)[0])


def test_a_larger_corpus_has_larger_pieces_and_not_more(corpus, monkeypatch):
    monkeypatch.setattr(text, "PIECE_BYTES", 1)
    assert len(cut(find_text(str(corpus)))) == 11  # 6 and 3 row groups, 2 files of text
    monkeypatch.setattr(text, "NUM_PIECES", 3)
    assert 2 <= len(cut(find_text(str(corpus)))) <= 3


def test_the_last_tenth_of_each_document_is_held_out_in_pieces_too(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE_BYTES", 10)
    trained = [name for name in (f"{i}.txt" for i in range(20)) if not held_out(name)][:3]
    for name in trained:
        (tmp_path / name).write_text("0123456789")
    pieces = cut(find_text(str(tmp_path)))
    assert [list(train_documents(piece)) for piece in pieces] == [[b"012345678"]] * 3


def command(corpus, folder, *options, code=SMALL):
    return subprocess.run(
        [sys.executable, "-c", code, "prepare", "gpt", f"--text={corpus}", f"--context={CONTEXT}", *options],
        check=False, capture_output=True, text=True, env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip


STOPPED = """
import os, signal
from onehour.data.shards import Shards
make = Shards.make
def killed(self, name, piece):
    if name == "train-00003.arrow":
        with self.target.open_output_stream(name) as file:
            file.write(b"ARROW1 and then nothing")
        os.kill(os.getpid(), signal.{signal})
    return make(self, name, piece)
Shards.make = killed
"""


@pytest.mark.parametrize(("place", "name", "code"), [("cache", "SIGKILL", -9), ("storage", "SIGTERM", 130)])
def test_a_preparation_that_was_stopped_goes_on_where_it_was(corpus, tmp_path, place, name, code):
    options = [] if place == "cache" else [f"--storage={tmp_path / 'storage'}"]
    stopped = command(corpus, tmp_path, *options, code=STOPPED.format(signal=name) + SMALL)
    assert stopped.returncode == code
    if name == "SIGTERM":
        assert stopped.stderr == "onehour: Stopped; the same command goes on with the files that are not there yet.\n"
    (first,) = tmp_path.glob(f"{place}/**/train-00000.arrow")
    written = first.stat().st_mtime_ns
    done = command(corpus, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert str(first.parent.name).lstrip(".") in done.stdout
    (first,) = tmp_path.glob(f"{place}/**/train-00000.arrow")
    assert first.stat().st_mtime_ns == written
    undisturbed = prepare(GPTRecipe(text=str(corpus), context=CONTEXT))
    assert {p.name: p.read_bytes() for p in first.parent.iterdir()} == {
        p.name: p.read_bytes() for p in undisturbed.folder.iterdir()
    }
    assert sorted(path.name for path in cache_folder().iterdir() if path.suffix != ".lock") == [undisturbed.folder.name]


def test_what_was_prepared_with_another_tokenizer_is_made_anew(corpus, tmp_path, capsys):
    arguments = ["prepare", "gpt", f"--text={corpus}", f"--context={CONTEXT}", "--vocab-size=300"]
    main([*arguments, f"--storage={tmp_path / 'storage'}"])
    (folder,) = (tmp_path / "storage" / "data").iterdir()
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "data.json").unlink()
    (folder / "tokenizer.json").write_text("of another version")
    (folder / "train-00001.arrow").write_bytes(good["train-00002.arrow"])  # whole, but not of this piece
    main([*arguments, f"--storage={tmp_path / 'storage'}"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == good


def test_the_command_finds_a_damaged_file_and_makes_it_anew(corpus, tmp_path, capsys):
    arguments = ["prepare", "gpt", f"--text={corpus}", f"--context={CONTEXT}", f"--storage={tmp_path / 'storage'}"]
    main(arguments)
    (folder,) = (tmp_path / "storage" / "data").iterdir()
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    written = (folder / "train-00000.arrow").stat().st_mtime_ns
    for name in ("train-00001.arrow", "held_out.arrow"):
        damaged = bytearray(good[name])
        damaged[1000] ^= 1
        (folder / name).write_bytes(damaged)
    (folder / "train-00002.arrow").unlink()
    main(arguments)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == good
    assert (folder / "train-00000.arrow").stat().st_mtime_ns == written


def test_a_file_that_is_cut_short_in_the_cache_is_found_by_its_length(corpus):
    recipe = GPTRecipe(text=str(corpus), context=CONTEXT)
    data = prepare(recipe)
    good = (data.folder / "train-00001.arrow").read_bytes()
    (data.folder / "train-00001.arrow").write_bytes(good[:-8])
    assert (prepare(recipe).folder / "train-00001.arrow").read_bytes() == good


def test_the_command_says_what_there_is_and_how_to_train_on_it(corpus, tmp_path, capsys):
    main(["prepare", "gpt", f"--text={corpus}", f"--context={CONTEXT}"])
    recipe = GPTRecipe(text=str(corpus), context=CONTEXT)
    data = prepare(recipe)
    told = capsys.readouterr().out
    assert f"samples    {len(data.train):,} of 16 tokens to train on, {len(data.held_out):,} held out\n" in told
    assert f"kept in    {cache_folder() / data_name(recipe)}\n" in told
    assert f" train gpt --context=16 --text={corpus}\n" in told


def test_a_terminal_shows_how_far_it_is(corpus, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    main(["prepare", "gpt", f"--text={corpus}", f"--context={CONTEXT}"])
    live, _, told = capsys.readouterr().out.rpartition("\r")
    assert "\rpreparing 7 files of samples\033[K\r" in live
    assert "\r1 of 7 files of samples  " in live
    assert "\r7 of 7 files of samples  " in live
    assert told.startswith("data ")


def test_a_terminal_is_told_of_data_without_pieces_too(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    main(["prepare", "digits"])
    assert capsys.readouterr().out.startswith("\rpreparing the data\033[K\r")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpt", "--text=nothing"], "There is nothing at "),
        (["gpt", "--text=corpus/*.parquet", "--column=body"], "has no column 'body': name the column of the text, one of"),
        (["gpt", "--text=corpus", "--storage=corpus/b.txt"], "corpus/b.txt ("),
        (["gpt", "--workers=-1"], "workers is -1; it must be 0 or more."),
        (["digits", "--workers=2"], "The data of digits are prepared by one process; leave --workers away."),
        (["gpt", "--text=corpus/c.parquet", "--context=5000"], "is too short: "),
    ],
)  # fmt: skip
def test_what_cannot_be_prepared_is_a_sentence(corpus, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(corpus.parent)
    with pytest.raises(SystemExit, match="2"):
        main(["prepare", *arguments])
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("onehour: ")
    assert told.count("\n") == 1
    assert not cache_folder().exists() or [path.suffix for path in cache_folder().iterdir()] == [".lock"]


def test_text_that_is_all_held_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = [f"{i}.txt" for i in range(100)]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / next(n for n in names if held_out(n))).write_text("long enough " * 9)
    (tmp_path / "text" / next(n for n in names if not held_out(n))).write_text("short")
    with pytest.raises(InputError, match="The data of gpt have not one sample to train on; give more input"):
        prepare(GPTRecipe(text=str(tmp_path / "text"), context=CONTEXT))
