from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from onehour.data.arrow import Rows, write_rows
from onehour.errors import InputError
from onehour.models.mlp import MLP
from onehour.recipes.toy import TRAIN, Toy
from onehour.show.predictions import (
    BATCH_SIZE,
    Columns,
    check,
    predict_rows,
    predictions_text,
    read_input,
    read_table,
    to_array,
)


@dataclass(frozen=True)
class Sums(Toy):
    """Predicts the sum of the features, and the features themselves."""

    def predict(self, model, batch):
        return {"sum": batch["features"].sum(dim=1), "both": batch["features"]}


@pytest.fixture
def model():
    return MLP(2, [4], 2).eval()


def column(values, type=None):
    return pa.chunked_array([pa.array(values, type)])


@pytest.mark.parametrize("name", ["points.parquet", "points.arrow"])
def test_a_file_is_read_as_the_types_of_the_recipe(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".arrow":
        write_rows(path, [{"features": TRAIN["features"].astype(np.float64), "label": TRAIN["label"]}])
    else:
        pq.write_table(
            pa.table({"features": TRAIN["features"].tolist(), "label": TRAIN["label"].astype(np.uint8)}), path
        )
    batch = read_input(Toy(), path, Path())[range(5)]
    assert (batch["features"].dtype, batch["label"].dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(batch["features"], TRAIN["features"])
    np.testing.assert_array_equal(batch["label"], TRAIN["label"])


def test_without_a_file_the_held_out_samples():
    rows = read_input(Toy(), None, Path())
    assert isinstance(rows, Rows)
    assert len(rows) == 2


def test_images_come_flat_nested_or_as_tensors():
    like, images = torch.zeros(1, 1, 2, 3), np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3)
    tensors = pa.chunked_array([pa.FixedShapeTensorArray.from_numpy_ndarray(images)])
    for values in (column(images.tolist()), column(images.reshape(2, 6).tolist()), tensors):
        np.testing.assert_array_equal(to_array(values, like, "images"), images)


@pytest.mark.parametrize(
    "values",
    [
        column([[1.0, 2.0], [3.0]]),
        column([[1.0, 2.0, 3.0], [3.0]]),
        column([[1.0, 2.0], None]),
        column([[1.0, None], [1.0, 2.0]]),
        column([1.0, 2.0]),
        column(["a", "b"]),
        column([["a", "b"], ["c", "d"]]),
        column([{"x": 1.0, "y": 2.0}] * 2),
    ],
)
def test_a_column_of_something_else(values):
    with pytest.raises(InputError, match=r"the points is .*; each cell must be 2 numbers"):
        to_array(values, torch.zeros(1, 2), "the points")


def test_a_cell_that_is_a_number():
    assert to_array(column([1, 2]), torch.zeros(1, dtype=torch.int64), "labels").tolist() == [1, 2]
    with pytest.raises(InputError, match="must be a number"):
        to_array(column([[1, 2]]), torch.zeros(1), "labels")


def test_files_that_cannot_be_predicted(tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        read_table(tmp_path / "none.arrow")
    (tmp_path / "broken.arrow").write_bytes(b"ARROW1")
    (tmp_path / "folder.arrow").mkdir()
    for name in ("broken.arrow", "folder.arrow"):
        with pytest.raises(InputError, match="cannot be read"):
            read_table(tmp_path / name)
    pq.write_table(pa.table({"features": pa.array([], pa.list_(pa.float32()))}), tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="no rows"):
        read_input(Toy(), tmp_path / "empty.parquet", Path())


def test_all_rows_come_in_order_and_labels_beside_them(model):
    features = np.arange(4 * BATCH_SIZE + 6, dtype=np.float32).reshape(-1, 2)
    rows = Columns({"features": features, "label": np.arange(len(features))})
    table = predict_rows(Sums(), model, rows)
    assert table["sum"].to_pylist() == features.sum(axis=1).tolist()
    assert table["both"].to_pylist() == features.tolist()
    assert table["label"].to_pylist() == list(range(len(features)))


def test_the_text_shows_the_first_and_counts_the_right_ones():
    table = pa.table({"label": [0] * 12, "prediction": [0] * 9 + [1] * 3, "logits": [[0.5, 1.0, 2.0, 3.0]] * 12})
    text = predictions_text(table)
    assert text.splitlines()[1].split(maxsplit=2) == ["0", "0", "[0.500, 1.000, 2.000, ...]"]
    assert "--output FILE.parquet writes them all" in text
    assert text.endswith("12 rows, 9 right (75.00%)")
    assert predictions_text(pa.table({"prediction": [0]})).endswith("1 row")


def test_a_wrong_output_is_refused_before_the_work(tmp_path):
    with pytest.raises(InputError, match=r"call it .*said.parquet"):
        check(Toy(), tmp_path / "said.csv")
