import io
import pickle
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from onehour.data.arrow import BATCH_BYTES, NUM_ROWS_KEY, Rows, write_rows
from onehour.errors import InputError


def columns(first, num_rows):
    ids = np.arange(first, first + num_rows)
    return {
        "id": ids,
        "image": (ids[:, None, None] * [[1, 2], [3, 4], [5, 6]] % 251).astype(np.uint8),
        "weight": ids.astype(np.float32) / 8,
    }


@pytest.mark.parametrize("sizes", [[1], [10, 10, 3], [0, 7, 0, 5], [200_000, 1, 200_000], [1] * 50, [1_200_000]])
def test_rows_come_back_as_they_were_written(tmp_path, sizes):
    starts = np.cumsum([0, *sizes[:-1]])
    path = tmp_path / "rows.arrow"
    assert write_rows(path, (columns(*part) for part in zip(starts, sizes, strict=True))) == sum(sizes)

    rows = Rows(path)
    assert len(rows) == sum(sizes)
    ids = np.random.default_rng(0).integers(0, len(rows), 100)  # any order, and some twice
    for name, expected in columns(0, sum(sizes)).items():
        got = rows[ids][name]
        assert got.dtype == torch.from_numpy(expected).dtype
        assert np.array_equal(got.numpy(), expected[ids])


def test_several_files_are_one_sequence(tmp_path):
    paths = [tmp_path / f"{i}.arrow" for i in range(3)]
    for path, first, num_rows in zip(paths, (0, 150_000, 150_004), (150_000, 4, 300_000), strict=True):
        write_rows(path, [columns(first, num_rows)])
    rows = Rows(*paths)
    assert len(rows) == 450_004
    ids = [0, 149_999, 150_000, 150_003, 150_004, 450_003, 1]
    assert rows[ids]["id"].tolist() == ids
    assert rows[range(149_990, 150_010)]["id"].tolist() == list(range(149_990, 150_010))
    assert rows[[]]["image"].shape == (0, 3, 2)


def test_unsigned_integers_are_widened_to_what_torch_computes_with(tmp_path):
    types = {"uint8": torch.uint8, "uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}
    types |= {"int32": torch.int32, "float16": torch.float16, "float64": torch.float64}
    write_rows(tmp_path / "rows.arrow", [{name: np.full((4, 2), 250, name) for name in types}])
    batch = Rows(tmp_path / "rows.arrow")[[0, 3]]
    assert {name: tensor.dtype for name, tensor in batch.items()} == types
    assert all(tensor.eq(250).all() for tensor in batch.values())


def test_a_batch_is_a_copy_that_can_be_changed(tmp_path):
    write_rows(tmp_path / "rows.arrow", [columns(0, 10)])
    rows = Rows(tmp_path / "rows.arrow")
    rows[[1, 2]]["image"].zero_()
    assert rows[[1]]["image"].any()


def test_ids_outside_are_an_index_error(tmp_path):
    write_rows(tmp_path / "rows.arrow", [columns(0, 10)])
    for outside in ([10], [-1], [3, -10], [10**12]):
        with pytest.raises(IndexError):
            Rows(tmp_path / "rows.arrow")[outside]


def test_rows_pickle_as_their_paths_and_work_in_a_worker_process(tmp_path):
    write_rows(tmp_path / "rows.arrow", [columns(0, 100_000)])
    rows = Rows(tmp_path / "rows.arrow")
    assert len(pickle.dumps(rows)) < 500
    assert pickle.loads(pickle.dumps(rows))[[5]]["id"].tolist() == [5]
    loader = DataLoader(rows, batch_size=None, sampler=[[3, 1], [99_999]], num_workers=1)
    assert [batch["id"].tolist() for batch in loader] == [[3, 1], [99_999]]


def test_writing_holds_one_batch_at_a_time(tmp_path):
    batch = {"tokens": np.zeros((1000, 1000), np.uint8)}
    write_rows(tmp_path / "warm.arrow", [batch])
    tracemalloc.start()
    write_rows(tmp_path / "rows.arrow", (batch for _ in range(50)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * BATCH_BYTES < 50_000_000 == len(Rows(tmp_path / "rows.arrow")) * 1000


def test_no_rows_write_no_file(tmp_path):
    assert write_rows(tmp_path / "rows.arrow", []) == 0
    assert write_rows(tmp_path / "rows.arrow", [columns(0, 0)]) == 0
    assert not list(tmp_path.iterdir())


def test_equal_rows_give_equal_bytes(tmp_path):
    write_rows(tmp_path / "a.arrow", [columns(0, 500_000)])
    write_rows(tmp_path / "b.arrow", (columns(i, 1000) for i in range(0, 500_000, 1000)))
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


class Sparse(io.RawIOBase):
    """A file in which anything long is a hole: ten gigabytes of zeros that take no room."""

    def __init__(self, path):
        self.file = open(path, "wb")  # noqa: SIM115

    def writable(self):
        return True

    def write(self, data):
        if len(data) < 100_000:
            return self.file.write(data)
        self.file.seek(len(data), io.SEEK_CUR)
        return len(data)

    def close(self):
        self.file.close()
        super().close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the memory in use")
def test_ten_gigabytes_take_no_memory_to_open(tmp_path):
    zeros = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((BATCH_BYTES // 257, 257), np.uint8))
    batch = pa.record_batch({"tokens": zeros})
    schema = batch.schema.with_metadata({NUM_ROWS_KEY: str(batch.num_rows)})
    path = tmp_path / "large.arrow"
    with Sparse(path) as file, pa.ipc.new_file(pa.PythonFile(file), schema) as writer:
        for _ in range(2500):
            writer.write_batch(batch)
    assert path.stat().st_size > 10e9

    Rows(path)
    before = resident()
    rows = Rows(path)
    memory = resident() - before
    assert len(rows) == 2500 * batch.num_rows
    assert memory < 50e6
    assert rows[[len(rows) - 1, 20_000_000]]["tokens"].shape == (2, 257)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_arrow_files_of_other_origin_are_read(tmp_path):
    path = tmp_path / "other.arrow"
    parts = [pa.record_batch({"x": pa.array(range(first, first + 3 + first))}) for first in (0, 3, 9)]
    with pa.ipc.new_file(path, parts[0].schema) as writer:
        for part in parts:
            writer.write_batch(part)
    rows = Rows(path)
    assert rows[range(len(rows))]["x"].tolist() == list(range(21))

    images = np.arange(24).reshape(4, 3, 2).astype(np.float32)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    parts = [pa.record_batch({"image": tensors[:number]}) for number in (0, 4, 1)]
    with pa.ipc.new_file(path, parts[0].schema) as writer:
        for part in parts:
            writer.write_batch(part)
    assert Rows(path)[[4, 2, 3]]["image"].numpy().tolist() == images[[0, 2, 3]].tolist()

    with pa.ipc.new_file(path, parts[0].schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(parts[1])
    with pytest.raises(InputError, match=r"other.arrow is compressed: write it uncompressed, as write_rows does\.$"):
        Rows(path)

    with pa.ipc.new_file(path, pa.schema({"name": pa.string()})) as writer:
        writer.write_batch(pa.record_batch({"name": ["a", "b"]}))
    with pytest.raises(InputError, match=r"Column 'name' holds string, but a row holds only numbers"):
        Rows(path)


def test_a_file_that_is_cut_short_is_refused_in_one_sentence(tmp_path):
    good, bad = tmp_path / "good.arrow", tmp_path / "bad.arrow"
    write_rows(good, [columns(0, 500_000)])
    data = good.read_bytes()
    for damaged in (b"", data[:8], data[:1000], data[:-1], data[: len(data) // 2], data[5000:], b"some text " * 100):
        bad.write_bytes(damaged)
        with pytest.raises(
            InputError, match=r"bad.arrow is not an Arrow file, or not a whole one: prepare it again\.$"
        ):
            Rows(bad)


def test_other_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read .*none.arrow .No such file or directory.: name an Arrow file"):
        Rows(tmp_path / "none.arrow")
    with pytest.raises(InputError, match=r"Cannot read .*Is a directory"):
        Rows(tmp_path)
    for values in (np.zeros(3, bool), np.array(["a"]), np.zeros(3, complex)):
        with pytest.raises(InputError, match=r"Column 'x' holds .*, but a row holds only numbers"):
            write_rows(tmp_path / "x.arrow", [{"x": values}])
    write_rows(tmp_path / "a.arrow", [{"x": np.zeros(3)}])
    write_rows(tmp_path / "b.arrow", [{"y": np.zeros(3)}])
    with pytest.raises(InputError, match=r"b.arrow holds y \(double\), but .*a.arrow holds x \(double\)"):
        Rows(tmp_path / "a.arrow", tmp_path / "b.arrow")
