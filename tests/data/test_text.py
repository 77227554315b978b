import dataclasses
import os
import sys
import sysconfig
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from onehour.data import sources, text
from onehour.data.sources import find_text, fingerprint, standard_library
from onehour.data.text import is_held_out, read_documents, split_documents, windows
from onehour.errors import InputError


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def names(where):
    return [source.name for source in find_text(str(where))]


# Finding


def test_the_default_is_the_source_of_the_standard_library():
    sources = find_text()
    found = [source.name for source in sources]
    assert found == sorted(found)
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= set(found)
    assert not {"test", "tests", "site-packages", "__pycache__", "idle_test"} & {p for n in found for p in n.split("/")}
    assert sum(source.size for source in sources) > 5_000_000
    decoder = next(source for source in sources if source.name == "json/decoder.py")
    assert next(read_documents([decoder])) == Path(sysconfig.get_paths()["stdlib"], "json/decoder.py").read_bytes()


def test_a_python_without_sources_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(InputError, match=r"This Python has no sources in .*: name a file or a folder"):
        standard_library()


def test_a_file_a_folder_and_a_glob(tmp_path, monkeypatch):
    write(tmp_path, {"b/two.txt": b"2", "b/c/three.md": b"3", "a.txt": b"1", ".git/HEAD": b"x", "b/.hidden": b"x"})
    assert names(tmp_path) == ["a.txt", "b/c/three.md", "b/two.txt"]
    assert names(f"{tmp_path}/b/") == ["c/three.md", "two.txt"]
    assert names(tmp_path / "b/two.txt") == ["two.txt"]
    assert names(tmp_path / "*.txt") == ["a.txt"]
    assert names(tmp_path / "**/*.txt") == ["a.txt", "b/two.txt"]
    assert names(tmp_path / "b/*") == ["two.txt"]
    assert names(tmp_path / "b/.h*") == [".hidden"]
    monkeypatch.chdir(tmp_path)
    assert names("b") == ["c/three.md", "two.txt"]
    assert names(f"file://{tmp_path}/b") == ["c/three.md", "two.txt"]


def test_a_name_with_the_signs_of_a_glob_is_a_name(tmp_path):
    write(tmp_path, {"notes [1].txt": b"one"})
    assert names(tmp_path / "notes [1].txt") == ["notes [1].txt"]


def test_links_to_files_are_followed_and_links_in_circles_are_not(tmp_path):
    write(tmp_path, {"blobs/1f": b"text", "docs/real.txt": b"real"})
    (tmp_path / "docs/link.txt").symlink_to(tmp_path / "blobs/1f")
    (tmp_path / "docs/broken.txt").symlink_to(tmp_path / "nothing")
    (tmp_path / "docs/circle").symlink_to(tmp_path / "docs")
    os.mkfifo(tmp_path / "docs/pipe")
    sources = find_text(str(tmp_path / "docs"))
    assert [(source.name, source.size) for source in sources] == [("link.txt", 4), ("real.txt", 4)]
    assert names(tmp_path / "docs/*.txt") == ["link.txt", "real.txt"]
    assert list(read_documents(sources)) == [b"text", b"real"]


def test_any_uri_that_fsspec_opens():
    with fsspec.open("memory://corpus/a/one.txt", "wb") as file:
        file.write(b"first")
    with fsspec.open("memory://corpus/two.txt", "wb") as file:
        file.write(b"second")
    assert names("memory://corpus") == ["a/one.txt", "two.txt"]
    assert names("memory://corpus/*.txt") == ["two.txt"]
    assert list(read_documents(find_text("memory://corpus"))) == [b"first", b"second"]
    with pytest.raises(InputError, match=r"nothing at memory://corpus/too.txt: did you mean 'two.txt'"):
        find_text("memory://corpus/too.txt")


def test_s3_and_gs_go_through_pyarrow(tmp_path, monkeypatch):
    """A folder plays the bucket."""
    write(tmp_path, {"bucket/b/two.txt": b"2", "bucket/one.txt": b"1"})
    pq.write_table(pa.table({"text": ["x", "y"]}), tmp_path / "bucket/rows.parquet")
    bucket = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    from_uri = SimpleNamespace(from_uri=lambda uri: (bucket, uri.partition("://")[2]))
    monkeypatch.setattr(pyarrow.fs, "FileSystem", from_uri)
    assert names("s3://bucket") == ["b/two.txt", "one.txt", "rows.parquet"]
    assert names("gs://bucket/b") == ["two.txt"]
    assert names("s3://bucket/*.txt") == ["one.txt"]
    assert list(read_documents(find_text("s3://bucket"))) == [b"2", b"1", b"x", b"y"]
    with pytest.raises(InputError, match=r"nothing at s3://bucket/on.txt: did you mean 'one.txt'"):
        find_text("s3://bucket/on.txt")


def test_what_is_not_there_is_said_with_names_like_it(tmp_path):
    write(tmp_path, {"shakespeare/input.txt": b"x"})
    for missing, near in (("shakspeare/input.txt", "shakespeare"), ("shakespeare/imput.txt", "input.txt")):
        with pytest.raises(InputError, match=f"There is nothing at .*{missing}: did you mean '{near}'\\?$"):
            find_text(str(tmp_path / missing))
    with pytest.raises(
        InputError, match=r"nothing at .*: name a file, a folder, a glob or a Parquet file that is there"
    ):
        find_text(str(tmp_path / "qqqq"))


def test_nothing_to_train_on_is_said(tmp_path):
    write(tmp_path, {"empty/.hidden": b"x"})
    for where in (tmp_path / "empty", tmp_path / "*.txt"):
        with pytest.raises(InputError, match=r"There are no files of text at .*: name a file, a folder or a glob"):
            find_text(str(where))


def test_what_cannot_be_opened_is_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"Cannot open foo://x .Protocol not known: foo"):
        find_text("foo://x")
    write(tmp_path, {"open.txt": b"x", "closed/secret.txt": b"x"})
    listed = os.scandir

    def refuse(path):
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"Cannot read .* \(Permission denied\): name text that can be read\.$"):
        find_text(str(tmp_path))


def test_a_file_that_vanished_is_said(tmp_path):
    write(tmp_path, {"a.txt": b"x"})
    sources = find_text(str(tmp_path))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InputError, match=r"Cannot read .*a.txt \(No such file or directory\)"):
        list(read_documents(sources))


# Reading


def test_text_that_is_not_utf8_is_read_as_bytes(tmp_path):
    write(tmp_path, {"latin.txt": "Größe".encode("latin-1"), "wide.txt": "Größe".encode("utf-16")})
    for name in ("latin.txt", "wide.txt"):
        assert list(read_documents(find_text(str(tmp_path / name)))) == [(tmp_path / name).read_bytes()]


def test_pictures_between_the_texts_are_passed_over(tmp_path):
    write(tmp_path, {"a.txt": b"text", "b.png": b"\x89PNG\r\n\x1a\n\0\0\0", "c.txt": b"more"})
    assert list(read_documents(find_text(str(tmp_path)))) == [b"text", b"more"]


def test_parquet_rows_are_documents(tmp_path):
    table = pa.table({"text": ["one", None, "", "größe"], "raw": [b"a", b"\xff", b"c", b"d"], "id": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    sources = find_text(str(tmp_path / "rows.parquet"))
    assert list(read_documents(sources)) == [b"one", b"", "größe".encode()]
    assert list(read_documents(sources, column="raw")) == [b"a", b"\xff", b"c", b"d"]
    kept = read_documents(sources, keep=lambda name: name == "rows.parquet#3")
    assert list(kept) == ["größe".encode()]


def test_parquet_without_the_column_names_those_there_are(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "title": ["t"], "id": [1]}), tmp_path / "rows.parquet")
    sources = find_text(str(tmp_path / "rows.parquet"))
    with pytest.raises(InputError, match=r"has no column 'text': name the column of the text, one of 'body', 'title'"):
        list(read_documents(sources))
    with pytest.raises(InputError, match=r"has int64 in its column 'id': name the column"):
        list(read_documents(sources, column="id"))


def test_a_damaged_parquet_is_said(tmp_path):
    write(tmp_path, {"bad.parquet": b"this is not Parquet"})
    for use in (lambda s: list(read_documents(s)), split_documents):
        with pytest.raises(InputError, match=r"bad.parquet is not a Parquet file that can be read"):
            use(find_text(str(tmp_path)))


def test_parquet_is_streamed(tmp_path):
    schema = pa.schema({"text": pa.string()})
    with pq.ParquetWriter(tmp_path / "large.parquet", schema) as writer:
        for letter in "abcdefghijklmnop":
            writer.write_table(pa.table({"text": [letter * 1000] * 5000}, schema))
    sources = find_text(str(tmp_path / "large.parquet"))
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    most, num_bytes = 0, 0
    for document in read_documents(sources):
        num_bytes += len(document)
        most = max(most, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_bytes == 80_000_000
    assert most + peak < 20_000_000


# Holding out


def test_one_document_in_ten_is_held_out():
    held_out = [is_held_out(f"some/file{i}.py") for i in range(10_000)]
    assert 900 < sum(held_out) < 1100
    assert [name for name in ("argparse.py", "ast.py", "json/tool.py", "csv.py") if is_held_out(name)] == ["ast.py"]


def test_each_document_is_on_one_side(tmp_path):
    write(tmp_path, {f"{i}.txt": f"document {i}".encode() for i in range(100)})
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(100)]}), tmp_path / "z.parquet")
    sources = find_text(str(tmp_path))
    train, held_out = (list(side) for side in split_documents(sources))
    assert sorted(train + held_out) == sorted(read_documents(sources))
    assert 5 < len(held_out) < 45
    assert b"row 0" in train + held_out
    assert {is_held_out(f"{i}.txt") for i in range(100) if f"document {i}".encode() in held_out} == {True}


def test_of_a_single_file_the_last_tenth_is_held_out(tmp_path):
    write(tmp_path, {"input.txt": bytes(range(100))})
    train, held_out = split_documents(find_text(str(tmp_path / "input.txt")))
    assert (list(train), list(held_out)) == ([bytes(range(90))], [bytes(range(90, 100))])


def test_where_whole_documents_would_leave_a_side_empty_each_gives_its_last_tenth(tmp_path):
    trained = [name for name in (f"{i}.txt" for i in range(20)) if not is_held_out(name)][:3]
    write(tmp_path, dict.fromkeys(trained, b"0123456789"))
    train, held_out = split_documents(find_text(str(tmp_path)))
    assert (list(train), list(held_out)) == ([b"012345678"] * 3, [b"9"] * 3)
    pq.write_table(pa.table({"text": ["0123456789"]}), tmp_path / "one.parquet")
    train, held_out = split_documents(find_text(str(tmp_path / "one.parquet")))
    assert (list(train), list(held_out)) == ([b"012345678"], [b"9"])


# Cutting into rows


@pytest.mark.parametrize("context", [1, 4, 16])
@pytest.mark.parametrize("chunk", [1, 8, 2**22])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_each_token_but_the_first_is_a_target_exactly_once(monkeypatch, context, chunk, dtype):
    monkeypatch.setattr(text, "CHUNK_TOKENS", chunk)
    for sizes in ([3, 0, 50, 1, 1, 7], [1] * 40, [64], [65], [16, 1]):
        tokens = np.arange(sum(sizes)).astype(dtype)
        chunks = list(windows(np.split(tokens, np.cumsum(sizes)[:-1]), context))
        assert all(part.dtype == dtype and 1 <= len(part) <= max(1, chunk // context) for part in chunks)
        rows = np.concatenate(chunks)
        assert rows.shape == ((len(tokens) - 1) // context, context + 1)
        assert np.array_equal(rows[:, :-1].ravel(), tokens[: rows.shape[0] * context])
        assert np.array_equal(rows[:, 1:].ravel(), tokens[1 : 1 + rows.shape[0] * context])


def test_too_little_text_gives_no_rows():
    assert list(windows([], 4)) == []
    assert list(windows([np.zeros(4, np.uint8)], 4)) == []
    assert sum(map(len, windows([np.zeros(5, np.uint8)], 4))) == 1


def test_windows_stream():
    document = np.zeros(1_000_000, np.uint8)
    tracemalloc.start()
    num_rows = sum(map(len, windows((document for _ in range(100)), 256)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_rows == (100_000_000 - 1) // 256
    assert peak < 30_000_000


# Knowing it again


def test_the_fingerprint_changes_with_names_sizes_and_times(tmp_path):
    write(tmp_path, {"a.txt": b"one", "b.txt": b"two"})
    first = fingerprint(find_text(str(tmp_path)))
    assert first == fingerprint(find_text(str(tmp_path)))
    seen = {first}
    os.utime(tmp_path / "a.txt", (1, 1))
    seen.add(fingerprint(find_text(str(tmp_path))))
    (tmp_path / "b.txt").write_bytes(b"three")
    seen.add(fingerprint(find_text(str(tmp_path))))
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    seen.add(fingerprint(find_text(str(tmp_path))))
    assert len(seen) == 4


def test_the_fingerprint_opens_no_file():
    unreadable = [dataclasses.replace(source, filesystem=None) for source in standard_library()]
    assert fingerprint(unreadable) == fingerprint(standard_library())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8(tmp_path):
    (tmp_path / os.fsdecode(b"gr\xf6\xdfe.txt")).write_bytes(b"text")
    sources = find_text(str(tmp_path))
    assert list(split_documents(sources)[0]) == [b"tex"]
    assert len(fingerprint(sources)) == 64
