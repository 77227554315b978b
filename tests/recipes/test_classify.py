"""Classification: honest splits, padding that changes nothing, the numbers of scikit-learn."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from tiny import write_tiny

from onehour.cli import main
from onehour.config import ScaleConfig
from onehour.data.labelled import functions_by_package, split
from onehour.data.prepare import prepare
from onehour.data.sources import find_text
from onehour.errors import InputError
from onehour.models.classifier import confusion
from onehour.recipes.classify import Classify, macro_f1
from onehour.show.table import tables_text
from onehour.training.keep import keep
from onehour.training.loop import train
from onehour.training.run import create_run, load_trained

SPAM = ["free money now", "win a prize today", "cheap pills", "you have won"]
HAM = ["see you at lunch", "the meeting is at ten", "thanks for the book", "are you home"]
MAIL = [{"label": ("ham", "spam")[i % 2], "text": f"{(HAM, SPAM)[i % 2][i // 2 % 4]} {i * 7 % 31}"} for i in range(120)]


@pytest.fixture(scope="module")
def mail(tmp_path_factory):
    """The same mail as CSV, JSON lines and Parquet."""
    folder = tmp_path_factory.mktemp("mail")
    table = pa.Table.from_pylist(MAIL)
    pq.write_table(table, folder / "mail.parquet")
    (folder / "mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MAIL))
    (folder / "mail.csv").write_text("label,text\n" + "".join(f'{row["label"]},"{row["text"]}"\n' for row in MAIL))
    return folder


def recipe_for(mail, **options):
    return Classify(str(mail / "mail.csv"), **{"context": 32, "vocab_size": 256, "depth": 1} | options)


def test_a_table_is_read_from_whatever_holds_it(mail):
    for name in ("mail.csv", "mail.jsonl", "mail.parquet"):
        both = [row for side in Classify(str(mail / name)).rows() for row in side]
        assert sorted((row.label, row.text) for row in both) == sorted((row["label"], row["text"]) for row in MAIL)


def test_spam_is_told_from_ham_and_the_run_says_how(mail, tmp_path, monkeypatch):
    recipe = recipe_for(mail)
    config = dataclasses.replace(recipe.defaults(), num_steps=40, global_batch_size=12, warmup_steps=4)
    run = create_run(tmp_path, None, "classify")
    run.describe(recipe, config, ScaleConfig(), prepare(recipe))
    *_, last = keep(train(recipe, config), run)
    assert last.metrics["held_out_accuracy"] == last.metrics["held_out_f1"] == 1.0
    assert last.metrics["confusion"] == [[6, 0], [0, 6]]
    table = tables_text(run.rows()[-1], run.facts())
    assert table.splitlines()[1:4] == ["      ham  spam", " ham    6     0", "spam    0     6"]
    _, model = load_trained(run)
    batch = prepare(recipe).held_out[range(12)]
    assert torch.equal(recipe.predict(model, batch)["prediction"], batch["label"])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))  # a run is all that it takes to read new mail
    new = tmp_path / "new.csv"
    new.write_text("text,id\nsee you at lunch 2,1\nfree money now 3,2\n")
    for output in ("said.parquet", "said"):
        if output == "said":
            pq.write_table(pa.csv.read_csv(new), new := tmp_path / "new.parquet")
        main(["predict", run.name, "--runs", str(tmp_path), "--input", str(new), "--output", str(tmp_path / output)])
        assert pq.read_table(tmp_path / output)["prediction"].to_pylist() == ["ham", "spam"]


@pytest.mark.parametrize("pretrained", [False, True])
def test_padding_and_the_rest_of_a_batch_change_nothing(pretrained, mail, tmp_path):
    recipe = recipe_for(mail, pretrained=str(write_tiny(tmp_path)) if pretrained else None)
    data, rng = prepare(recipe), np.random.default_rng(1)
    model = recipe.begin(data.folder).eval()
    batch = data.held_out[range(12)]
    assert batch["length"].min() < batch["length"].max() <= 32
    losses = recipe.loss(model, batch)
    after = torch.arange(32) >= batch["length"][:, None]
    other = torch.from_numpy(rng.integers(0, 256, batch["tokens"].shape)).to(batch["tokens"].dtype)
    filled = batch | {"tokens": torch.where(after, other, batch["tokens"])}
    torch.testing.assert_close(recipe.loss(model, filled), losses)
    for i in range(12):
        alone = {name: column[i : i + 1] for name, column in batch.items()}
        alone["tokens"] = alone["tokens"][:, : int(batch["length"][i])]
        torch.testing.assert_close(recipe.loss(model, alone)[0], losses[i], rtol=1e-4, atol=1e-5)


def test_the_numbers_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for num_labels, predicted in ((4, rng.integers(0, 4, 90)), (5, rng.integers(0, 3, 90))):  # one never occurs
        labels = rng.integers(0, 4, 90)
        table = confusion(torch.tensor(labels), torch.tensor(predicted), num_labels)
        assert table.tolist() == confusion_matrix(labels, predicted, labels=range(num_labels)).tolist()
        assert macro_f1(table.numpy()) == pytest.approx(f1_score(labels, predicted, average="macro"))
        metrics = Classify().metrics({"confusion": table.double().numpy(), "loss": 9.0}, 90, {})
        assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted))


def test_of_the_library_whole_files_are_held_out():
    functions = functions_by_package(find_text(None))
    train_, held_out = split(functions, share=5)
    names = [{row.name for row in side} for side in (train_, held_out)]
    assert not names[0] & names[1] and len(functions) == len(train_) + len(held_out) > 1000
    assert {row.label for row in held_out} == {row.label for row in train_} >= {"asyncio", "email"}


MISTAKES = [
    ("label,text\nham,a\nham,b\n", {}, "has only the label ham; give data of two or more"),
    ("label,words\nham,a\n", {}, "mail.csv, line 2 has label, words, and no text; name the columns by --text-column"),
    ("label,text\nham,a\nspam\n", {}, "mail.csv, line 3: it has not 2 fields, as the header has"),
    ("label,text\nham,a,b\n", {}, "mail.csv, line 2: it has not 2 fields"),
    ("label,text\nham,a\nspam, \n", {}, "mail.csv, line 3 has nothing in its column 'text'"),
    ('label,text\nham,"a\n', {}, "mail.csv, line 2: unexpected end of data"),
    ("label,text\nham,a\nspam,b\n", {}, "has no text to hold out; give more of each label"),
    ("label,text\nham,a\nspam,b\n", {"held_out": "egg"}, "The label 'egg' is among those held out .egg, ham. and not among"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "options", "says"), MISTAKES)
def test_mistakes_are_one_sentence(text, options, says, tmp_path):
    (tmp_path / "mail.csv").write_text(text)
    (tmp_path / "exam.csv").write_text("label,text\negg,a\nham,b\n")
    held_out = str(tmp_path / "exam.csv") if options else None
    with pytest.raises(InputError, match=says):
        prepare(Classify(str(tmp_path / "mail.csv"), held_out=held_out, vocab_size=256))


def test_a_context_that_the_model_does_not_have(mail, tmp_path):
    with pytest.raises(InputError, match=r"context is 500, and .* reads at most 256 tokens"):
        prepare(recipe_for(mail, pretrained=str(write_tiny(tmp_path)), context=500))
