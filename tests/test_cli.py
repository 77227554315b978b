"""The command line, from its words to its exit code: what it does, and what it says about what it cannot do.

The commands run in this process, without Ray. A mistake is one sentence on the error output and an exit code.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onehour.cli import COMMANDS, main
from onehour.config import TrainConfig
from onehour.data.loader import num_micro_batches
from onehour.errors import InputError

MINE = """
from dataclasses import dataclass

import numpy as np
from torch.nn.functional import cross_entropy

import onehour


@dataclass(frozen=True)
class Mine(onehour.Recipe):
    '''Points of two classes.'''

    hidden: int = 8

    def defaults(self):
        return onehour.TrainConfig(num_steps=4, global_batch_size=2, schedule="constant", log_every=1)

    def prepare(self, folder):
        for name in ("train", "held_out"):
            x = np.arange(8, dtype=np.float32).reshape(4, 2)
            onehour.write_rows(folder / f"{name}.arrow", [{"x": x, "label": np.array([0, 0, 1, 1])}])
        return {"about": "four points"}

    def build_model(self):
        return onehour.MLP(2, [self.hidden], 2)

    def loss(self, model, batch):
        return cross_entropy(model(batch["x"]), batch["label"], reduction="none")

    def predict(self, model, batch):
        return {"prediction": model(batch["x"]).argmax(dim=1)}
"""


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command line; what it printed, and its exit code."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(line):
        capsys.readouterr()
        code = call(line)
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run


def call(line):
    try:
        main(shlex.split(line))
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of toy and one of a tiny gpt."""
    runs = tmp_path_factory.mktemp("runs")
    text = runs.parent / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 20)
    assert call(f"train toy --workers 0 --num-steps 10 --runs {runs} --name toy") == 0
    tiny = "--depth 1 --context 16 --num-steps 2 --global-batch-size 2 --micro-batch-size 2"
    assert call(f"train gpt --workers 0 --text {text} {tiny} --runs {runs} --name gpt") == 0
    return runs


def check_says(result, code, *words):
    """Assert that the command ended with this code and one sentence on the error output, which has these words."""
    assert result.code == code, result
    assert re.fullmatch(r"onehour: [^\n]+[.?!\w]\n", result.err), result.err
    for word in words:
        assert word in result.err


# What is imported when


@pytest.mark.parametrize("what", ["import onehour", "from onehour.cli import main; main(['--help'])"])
def test_help_and_import_bring_neither_torch_nor_ray(what):
    code = f"{what}; import sys; print('loaded', {{'torch', 'ray', 'pyarrow', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded set()\n")


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "onehour", "shwo"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("onehour: There is no command 'shwo'")


def test_help(run):
    for line in ("", "--help", "train", "train --help", "search", "search --help"):
        result = run(line)
        assert (result.code, result.err) == (0, "")
        assert "usage: onehour" in result.out
    assert "--hidden-width" in run("train gpt --help").out
    assert "--scheduler" in run("search gpt --help").out
    for command in ("generate", "predict", "show", "doctor"):
        assert "--runs" in run(f"{command} --help").out
    assert "--language" in run("learn --help").out


# Words that cannot be


def test_a_command_that_is_not_there(run):
    check_says(run("trian toy"), 2, "'trian'", "did you mean train?")
    check_says(
        run("quux"),
        2,
        "'quux'",
        "there are " + ", ".join(COMMANDS),
    )


def test_a_recipe_that_is_not_there_names_near_ones(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    check_says(run("train digist"), 2, "'digist'", "did you mean digits?")
    check_says(run("train mien.py"), 2, "did you mean mine.py?")
    check_says(run("train quux"), 2, "toy, digits, gpt")


def test_an_option_that_is_not_there_or_ill_typed(run):
    result = run("train toy --learningrate 3")
    assert result.code == 2
    assert "--learningrate" in result.err
    assert "--learning-rate FLOAT" in result.err
    result = run("train toy --learning-rate fast")
    assert result.code == 2
    assert "'fast'" in result.err
    assert run("show toy --colour").code == 2
    assert run("doctor now").code == 2
    assert "There is no recipe 'gtp'; did you mean gpt?" in run("doctor --recipe gtp").err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train toy --global-batch-size 0", "global_batch_size is 0"),
        ("train toy --learning-rate -1", "learning_rate is -1.0"),
        ("train toy --num-steps 0", "num_steps is 0"),
        ("train gpt --vocab-size 3", "vocab_size is 3"),
        ("generate gpt --temperature -1", "temperature is -1.0; it must be 0 or more"),
        ("generate gpt --num-tokens 0", "num_tokens is 0; it must be at least 1"),
    ],
)
def test_a_value_out_of_range(run, line, words):
    result = run(line)
    assert result.code == 2
    assert words in " ".join(result.err.split())
    assert "Traceback" not in result.err


OUT_OF_RANGE = [
    ("train toy --workers -1", "workers"),
    ("train toy --workers 0 --max-failures -1", "max_failures"),
    ("train toy --workers 0 --num-loader-processes -1", "num_loader_processes"),
    ("train toy --workers 0 --optimizer adamw --beta1 2", "beta1"),
    ("train toy --workers 0 --warmup-steps -5", "warmup_steps"),
    ("train gpt --workers 0 --depth 0", "depth"),
    ("train gpt --workers 0 --context 0", "context"),
    ("train digits --workers 0 --width 0", "width"),
    ("train digits --workers 0 --width 3", "width"),
    ("generate gpt --temperature nan", "temperature"),
    ("generate gpt --temperature inf", "temperature"),
]


@pytest.mark.parametrize(("line", "word"), OUT_OF_RANGE)
def test_a_value_out_of_range_that_only_the_work_would_find(run, runs, line, word):
    result = run(f"{line} --runs {runs}")
    assert result.code == 2
    assert word in result.err
    assert "Traceback" not in result.err


def test_no_recipe_and_no_run(run):
    check_says(run("train --workers 0"), 2, "no recipe to train", "--resume RUN")
    for command in ("generate", "predict", "show"):
        check_says(run(command), 2, f"such as: onehour {command} gpt-1")


# The text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("empty.txt", b"", ["too short", "--context"]), ("short.txt", b"to be", ["too short", "--context"])],
)
def test_a_text_that_is_too_short(run, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    check_says(run(f"train gpt --workers 0 --runs {tmp_path}/runs --text {tmp_path / name}"), 2, name, *words)
    assert not (tmp_path / "runs").exists()


def test_a_text_that_is_not_there_names_a_near_one(run, tmp_path):
    (tmp_path / "hamlet.txt").write_text("to be or not to be")
    check_says(
        run(f"train gpt --workers 0 --text {tmp_path}/halmet.txt"), 2, "halmet.txt", "did you mean 'hamlet.txt'?"
    )


def test_a_parquet_without_the_column_names_those_there_are(run, tmp_path):
    pq.write_table(pa.table({"body": ["to be"] * 9, "year": list(range(9))}), tmp_path / "plays.parquet")
    check_says(run(f"train gpt --workers 0 --text {tmp_path}/plays.parquet"), 2, "no column 'text'", "'body'")
    check_says(run(f"train gpt --workers 0 --text {tmp_path}/plays.parquet --column year"), 2, "int64", "'body'")


def test_text_that_is_not_utf_8_trains_as_bytes_and_not_as_byte_pairs(run, tmp_path):
    (tmp_path / "latin.txt").write_bytes(
        "Sein oder Nichtsein, das ist hier die Frage für überall\n".encode("latin-1") * 20
    )
    tiny = f"train gpt --workers 0 --runs {tmp_path} --depth 1 --context 16 --num-steps 1 --global-batch-size 2"
    assert run(f"{tiny} --text {tmp_path}/latin.txt").code == 0
    check_says(run(f"{tiny} --text {tmp_path}/latin.txt --vocab-size 300"), 2, "not UTF-8", "leave out --vocab-size")


# Sizes and places


def test_a_batch_that_does_not_divide_names_the_nearest_that_do():
    with pytest.raises(InputError, match="does not divide by 3 workers: set global_batch_size to 63 or 66"):
        num_micro_batches(TrainConfig(global_batch_size=64), world_size=3)


def test_torchrun_and_ray_at_once(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_says(run("train toy --workers 2"), 2, "torchrun", "--workers 0")


def test_a_name_in_use_and_one_that_is_none(run, runs):
    before = (runs / "toy" / "config.json").read_bytes()
    check_says(run(f"train toy --workers 0 --runs {runs} --name toy"), 2, "--resume toy", "--name")
    assert (runs / "toy" / "config.json").read_bytes() == before
    check_says(run(f"train toy --workers 0 --runs {runs} --name ../toy"), 2, "'../toy'")


def test_a_run_that_is_not_there(run, runs):
    for line in ("train --resume tyo --workers 0", "show tyo", "predict tyo", "generate tyo"):
        check_says(run(f"{line} --runs {runs}"), 2, "no run tyo", "did you mean toy?")
    check_says(run("show tyo --runs nowhere"), 2, "there is none")


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    check_says(run(f"train toy --workers 0 --runs {tmp_path}/file/runs"), 2, "Not a directory", "--runs")


def test_a_cache_that_cannot_be_written(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/file/cache")
    check_says(run(f"train toy --workers 0 --runs {tmp_path}"), 2, "XDG_CACHE_HOME")


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_a_device_that_is_not_there(run, tmp_path):
    check_says(run(f"train toy --workers 0 --device cuda --runs {tmp_path}"), 2, "--device cuda", "cpu")
    assert list(tmp_path.iterdir()) == []


# Runs that go on


def test_a_resumed_run_goes_on(run, tmp_path):
    toy = f"--workers 0 --runs {tmp_path}"
    assert run(f"train toy {toy} --num-steps 4 --checkpoint-every 2").code == 0
    assert run(f"train --resume toy-1 {toy} --num-steps 6").code == 0
    assert [row["step"] for row in rows(tmp_path / "toy-1")] == [1, 2, 3, 4, 5, 6]
    names = sorted(path.name for path in (tmp_path / "toy-1" / "checkpoints").iterdir())
    assert names == ["step_0000002", "step_0000004", "step_0000006"]


def test_a_checkpoint_of_another_recipe_order_or_size(run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    here = f"--workers 0 --runs {tmp_path}"
    assert run(f"train {tmp_path}/mine.py {here} --name mine").code == 0
    check_says(run(f"train digits --resume mine {here}"), 2, "trains the recipe mine, not digits")
    check_says(run(f"train --resume mine {here} --num-steps 9 --hidden 9"), 2, "of another model", "(8,)", "(9,)")
    check_says(
        run(f"train --resume mine {here} --num-steps 9 --global-batch-size 4"), 2, "global_batch_size 2", "order"
    )


def test_a_resume_that_is_refused_changes_nothing(run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    here = f"--workers 0 --runs {tmp_path}"
    assert run(f"train {tmp_path}/mine.py {here} --name mine").code == 0
    before = (tmp_path / "mine" / "config.json").read_text()
    assert run(f"train --resume mine {here} --num-steps 9 --hidden 9").code == 2
    assert (tmp_path / "mine" / "config.json").read_text() == before


def test_a_training_that_diverges_names_the_step_and_goes_on_from_the_last_good_checkpoint(run, tmp_path):
    toy = f"--workers 0 --runs {tmp_path}"
    assert run(f"train toy {toy} --num-steps 4").code == 0
    result = run(f"train --resume toy-1 {toy} --num-steps 12 --learning-rate 1e38 --checkpoint-every 4")
    check_says(result, 1, "diverged at step 6", "lower --learning-rate")
    assert [path.name for path in (tmp_path / "toy-1" / "checkpoints").iterdir()] == ["step_0000004"]
    assert rows(tmp_path / "toy-1")[-1]["step"] == 5
    assert run(f"train --resume toy-1 {toy} --learning-rate 0.1").code == 0
    assert rows(tmp_path / "toy-1")[-1]["step"] == 12


def test_a_checkpoint_never_holds_weights_that_are_not_finite(run, tmp_path):
    toy = f"--workers 0 --runs {tmp_path}"
    assert run(f"train toy {toy} --num-steps 2").code == 0
    result = run(f"train --resume toy-1 {toy} --num-steps 9 --learning-rate 1e38 --checkpoint-every 1")
    check_says(result, 1, "diverged at step 3")
    assert run(f"train --resume toy-1 {toy} --learning-rate 0.1").code == 0


def rows(folder):
    return sorted(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()), key=lambda row: row["step"])


# A recipe of one's own


def test_a_recipe_of_ones_own_trains_predicts_and_goes_on(run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    here = f"--workers 0 --runs {tmp_path}/runs"
    result = run(f"train {tmp_path}/mine.py {here} --hidden 6")
    assert (result.code, result.err) == (0, "")
    assert "four points: 4 samples" in result.out
    (tmp_path / "mine.py").unlink()  # the run knows its recipe
    result = run(f"predict mine-1 --runs {tmp_path}/runs")
    assert "4 rows" in result.out
    assert run(f"train --resume mine-1 {here} --num-steps 8").code == 0
    result = run(f"show mine-1 --runs {tmp_path}/runs")
    assert "hidden 6" in result.out
    assert "step_0000008" in result.out


def test_a_recipe_of_ones_own_may_be_named_again_when_it_goes_on(run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    here = f"--workers 0 --runs {tmp_path}/runs"
    assert run(f"train {tmp_path}/mine.py {here}").code == 0
    assert run(f"train {tmp_path}/mine.py --resume mine-1 {here} --num-steps 8").code == 0


LOSS = 'cross_entropy(model(batch["x"]), batch["label"], reduction="none")'
BROKEN = {  # what is replaced in the recipe, by what, and the last line of what is said
    "syntax": ("class Mine(onehour.Recipe):", "class Mine(onehour.Recipe:", "SyntaxError: invalid syntax"),
    "import": ("import onehour\n", "import onehour\nraise OSError('no luck')\n", "OSError: no luck"),
    "module": ("import onehour\n", "import onehour, nowhere\n", "ModuleNotFoundError: No module named 'nowhere'"),
    "build": ("[self.hidden], 2)", "[self.hiden], 2)", "AttributeError: 'Mine' object has no attribute 'hiden'"),
    "loss": (LOSS, LOSS.replace('["x"]', '["y"]'), "KeyError: 'y'"),
    "prepare": ("for name in", "raise OverflowError('too much')\n        for name in", "OverflowError: too much"),
    "defaults": ("num_steps=4", "num_stops=4", "unexpected keyword argument 'num_stops'"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_recipe_with_a_mistake_shows_its_own_short_traceback(run, tmp_path, kind):
    old, new, last = BROKEN[kind]
    assert old in MINE
    path = tmp_path / f"{kind}_mistake.py"
    path.write_text(MINE.replace(old, new))
    result = run(f"train {path} --workers 0 --runs {tmp_path}")
    lines = result.err.strip().splitlines()
    assert result.code == 2
    assert lines[0].startswith(f"onehour: The recipe {path} fails:")
    assert lines[1].startswith(f'  File "{path}", line ')
    assert lines[-1].endswith(last)
    assert not re.search(r"Traceback|cli\.py|recipe\.py|memory\.py|prepare\.py", result.err)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (', reduction="none"', "", ["shape ()", "one loss per sample", "reduction='none'"]),
        ("class Mine(onehour.Recipe)", "class Mine(object)", ["must define one subclass", "none"]),
        (MINE[-1:], MINE[MINE.index("@dataclass") :].replace("Mine", "Other"), ["must define one", "Mine, Other"]),
        ("def loss", "def lose", ["Mine", "must also define: loss"]),
        ("def prepare", "def loss", ["must also define: prepare"]),
    ],
)
def test_a_recipe_that_is_none(run, tmp_path, old, new, words):
    path = tmp_path / "mine.py"
    path.write_text(MINE[:-1] + new if old == MINE[-1:] else MINE.replace(old, new))
    check_says(run(f"train {path} --workers 0 --runs {tmp_path}/runs"), 2, *words)
    assert not (tmp_path / "runs").exists()


def test_a_recipe_file_that_is_no_text(run, tmp_path):
    (tmp_path / "mine.py").write_bytes(b"\xff\xfe")
    check_says(run(f"train {tmp_path}/mine.py --workers 0"), 2, "mine.py")


def test_prepare_that_writes_no_samples_or_returns_no_facts(run, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE.replace('("train", "held_out")', '("train",)'))
    check_says(run(f"train {path} --workers 0 --runs {tmp_path}"), 2, "held_out.arrow", "prepare")
    path.write_text(MINE.replace('return {"about": "four points"}', "return None"))
    check_says(run(f"train {path} --workers 0 --runs {tmp_path}"), 2, "prepare", "dict")


# What a trained model does


def test_generate(run, runs):
    result = run(f"generate gpt --runs {runs} --prompt 'to be' --num-tokens 20 --seed 3")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("to be")
    assert run(f"generate gpt --runs {runs} --prompt 'to be' --num-tokens 20 --seed 3").out == result.out
    assert run(f"generate {runs}/gpt --prompt '' --num-tokens 3 --temperature 0").code == 0


def test_what_a_model_does_not_do(run, runs):
    check_says(run(f"generate toy --runs {runs}"), 2, "has no generate", "onehour predict RUN")
    check_says(run(f"predict gpt --runs {runs}"), 2, "has no predict", "onehour generate RUN")


def test_predict(run, runs, tmp_path):
    result = run(f"predict toy --runs {runs}")
    assert (result.code, result.err) == (0, "")
    assert re.search(
        r"label  prediction  probability\n +0 +0 +0\.\d{3}\n +1 +1 +0\.\d{3}\n\n2 rows, 2 right", result.out
    )

    points = pa.table({"features": [[-1.0, 3.0], [2.0, -1.0], [-0.5, 2.0]], "name": ["a", "b", "c"]})
    pq.write_table(points, tmp_path / "points.parquet")
    result = run(f"predict toy --runs {runs} --input {tmp_path}/points.parquet --output {tmp_path}/said.parquet")
    assert result.out == f"3 predictions in {tmp_path}/said.parquet\n"
    said = pq.read_table(tmp_path / "said.parquet")
    assert said["prediction"].to_pylist() == [0, 1, 0]
    assert said.column_names == ["prediction", "probability"]


def test_predict_what_cannot_be(run, runs, tmp_path):
    predict = f"predict toy --runs {runs}"
    pq.write_table(pa.table({"points": [[1.0, 2.0]]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"label": [1]}), tmp_path / "label.parquet")
    (tmp_path / "text.parquet").write_text("to be")
    check_says(run(f"{predict} --input {tmp_path}/none.parquet"), 2, "There is no file", "none.parquet")
    check_says(run(f"{predict} --input {tmp_path}/other.parquet"), 2, "points", "features, label")
    check_says(run(f"{predict} --input {tmp_path}/label.parquet"), 2, "column 'features'", "only label")
    check_says(run(f"{predict} --input {tmp_path}/text.parquet"), 2, "cannot be read")
    check_says(run(f"{predict} --output {tmp_path}/said.csv"), 2, "said.parquet")
    check_says(run(f"{predict} --output {tmp_path}/nowhere/said.parquet"), 2, "No such file or directory", "--output")


def test_show(run, runs):
    result = run(f"show toy --runs {runs}")
    assert (result.code, result.err) == (0, "")
    assert "● held out" in result.out
    assert "held-out accuracy" in result.out
    assert f"run        {runs}/toy\n" in result.out
    assert "\033" not in result.out  # this is no terminal
    assert (runs / "toy" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_show_a_run_that_has_told_nothing(run, runs, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_bytes((runs / "toy" / "config.json").read_bytes())
    check_says(run(f"show new --runs {tmp_path}"), 2, "nothing yet")
    check_says(run(f"predict new --runs {tmp_path}"), 2, "no good checkpoint", "--resume new")


def test_doctor_tells_trouble(run, tmp_path):
    (tmp_path / "file").touch()
    result = run(f"doctor --runs {tmp_path}/file/runs")
    check_says(result, 1, "lines that begin with !")
    assert "\n! runs " in result.out
    assert "onehour" in result.out
