"""The commands for language models, of a run and pretrained: generate, chat, export, and predict into a folder."""

import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from onehour.cli import main
from onehour.data.chat import Chat
from onehour.data.tokens import Bytes
from onehour.models.gpt import GPT, GPTConfig
from onehour.models.huggingface import write_folder

TEMPLATE = "{% for message in messages %}{{ message.role[0] }}:{{ message.content }};{% endfor %}a:"
PROMPTS = ["to be", "", "or", "that is the question", "not to be, that", "o", "be"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with runs of gpt, bytes and byte pairs, one of toy, a pretrained model, and a table of prompts."""
    place = tmp_path_factory.mktemp("place")
    (place / "text.txt").write_text("to be or not to be, that is the question\n" * 40)
    tiny = "--workers 0 --depth 1 --context 32 --num-steps 2 --global-batch-size 2 --warmup-steps 1"
    for name, more in (("bytes", ""), ("pairs", "--vocab-size 270 --tied")):
        main(shlex.split(f"train gpt --text {place}/text.txt {tiny} {more} --runs {place}/runs --name {name}"))
    main(shlex.split(f"train toy --workers 0 --num-steps 10 --runs {place}/runs --name toy"))
    torch.manual_seed(0)
    write_folder(place / "model", GPT(GPTConfig(context=64)), Bytes().json(), Chat(TEMPLATE, stops=(0,)))
    rows = [PROMPTS[i % len(PROMPTS)] + str(i) for i in range(19)]
    (place / "in").mkdir()
    for name, part in (("a", rows[:12]), ("b", rows[12:])):
        pq.write_table(
            pa.table({"ask": part, "id": [*map(len, part)]}), place / "in" / f"{name}.parquet", row_group_size=5
        )
    return place


@pytest.fixture
def run(place, capsys, monkeypatch):
    """Run a command line there; what it printed, and its exit code."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "100")

    def run(line: str, typed: str = "") -> SimpleNamespace:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        capsys.readouterr()
        code = 0
        try:
            main(shlex.split(line))
        except SystemExit as end:
            code = end.code
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run


@pytest.mark.parametrize("model", ["bytes", "pairs", "model"])
def test_a_file_of_prompts_is_continued_as_each_alone(model, run, place):
    (place / "prompts.txt").write_text("\n".join(PROMPTS))
    how = "--num-tokens 20 --temperature 0"
    result = run(f"generate {model} --prompts prompts.txt --batch-size 3 {how}")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert (result.code, [line["prompt"] for line in lines]) == (0, PROMPTS)
    for line in lines:
        assert (
            run(f"generate {model} --prompt {shlex.quote(line['prompt'])} {how}").out
            == f"{line['prompt']}{line['text']}\n"
        )


def test_a_conversation_is_remembered_until_a_new_one(run, monkeypatch):
    seen = []
    render = Chat.render
    monkeypatch.setattr(
        Chat, "render", lambda self, messages, **how: seen.append(messages) or render(self, messages, **how)
    )
    result = run("chat model --system S --num-tokens 3 --temperature 0", "hi\nyou\n\n/new\nhi\n")
    assert (result.code, result.err) == (0, "")
    assert [[message["role"][0] for message in messages] for messages in seen] == [[*"su"], [*"suau"], [*"su"]]
    assert [messages[-1]["content"] for messages in seen] == ["hi", "you", "hi"]
    assert result.out.startswith(seen[1][2]["content"] + "\n")
    assert run("chat model --system S --num-tokens 3 --temperature 0", "hi").out == seen[1][2]["content"] + "\n"


def test_a_file_of_questions_is_answered_as_each_in_a_conversation(run, place):
    (place / "questions.txt").write_text("to be\nor\nnot to be")
    lines = run("generate model --prompts questions.txt --chat --num-tokens 9 --temperature 0").out.splitlines()
    for line in map(json.loads, lines):
        assert run("chat model --num-tokens 9 --temperature 0", line["prompt"]).out == f"{line['text']}\n"
    assert run("predict model --input in --column ask --output asked --chat --num-tokens 9").code == 0
    first = pq.read_table(place / "asked").slice(0, 1).to_pylist()[0]
    assert run("chat model --num-tokens 9 --temperature 0", first["ask"]).out == f"{first['continuation']}\n"


def test_a_conversation_that_is_too_long_goes_on(run):
    result = run("chat model --num-tokens 3", f"{'x' * 70}\nhi\n")
    assert result.err == "The conversation has 75 tokens, and the model reads 64. Begin a new conversation by /new.\n"
    assert (result.code, result.out != "") == (0, True)


@pytest.mark.parametrize("name", ["bytes", "pairs"])
def test_a_run_is_exported_for_transformers(name, run, place):
    result = run(f"export {name} --to exported-{name}")
    assert (result.code, result.err) == (0, "")
    model, tokenizer = (
        kind.from_pretrained(place / f"exported-{name}") for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    inputs = tokenizer("to be, 你好", return_tensors="pt")
    said = tokenizer.decode(model.generate(**inputs, max_new_tokens=12, do_sample=False)[0])
    ours = run(f"generate {name} --prompt 'to be, 你好' --num-tokens 12 --temperature 0").out
    again = run(f"generate exported-{name} --prompt 'to be, 你好' --num-tokens 12 --temperature 0").out
    assert said.rstrip("\ufffd") == ours[:-1].rstrip("\ufffd") and again == ours


MISTAKES = {
    "chat bytes": "bytes has no chat template, so it cannot converse; try: onehour generate bytes",
    "chat toy": "The run toy trained no language model; try: onehour predict toy",
    "export toy --to new": "The run toy trained no language model",
    "export bytes": "export wants a folder, such as: onehour export bytes --to exported",
    "export bytes --to model": "There is something in model already, such as config.json; name a new folder by --to.",
    "export bytes --to text.txt/new": "The model cannot be written to text.txt/new",
    "generate text.txt": "The file text.txt is no whole GGUF file (GGUF magic invalid); fetch it again.",
    "generate in": "in should hold a config.json or one GGUF file, and has neither; name the file.",
    "generate modl": "There is no run modl in",
    "generate model --prompt " + "x" * 65: "has 65 tokens, and the model reads 64 at most: shorten it.",
    "generate model --chat": "--chat is for a file of --prompts; to ask by hand: onehour chat model",
    "generate bytes --prompts text.txt --chat": "The model has no chat template: it continues texts",
    "generate model --prompts nowhere.txt": "The prompts nowhere.txt cannot be read (No such file or directory)",
    "generate model --prompts /dev/null": "The file /dev/null has no prompts; write one on each line.",
    "generate model --prompts x --batch-size 0": "batch_size is 0; it must be at least 1",
    "predict model": "predict fills a folder here: name the prompts by --input TABLE.parquet, and it by --output FOLDER.",
    "predict bytes --output new": "name a Parquet file, or a folder of them, by --input.",
    "predict bytes --input nowhere --output new": "There is no Parquet file at nowhere; name one, or a folder of them.",
    "predict bytes --input text.txt --output new": "text.txt cannot be read",
    "predict bytes --input in --output new": "has the columns ask, id; name that of the prompts by --column.",
    "predict bytes --input in --output new --column id": "is int64; it must be text, and no cell may be null.",
    "predict bytes --input in --output model --column ask": "model holds something else than predictions of this model",
    "predict bytes --input in --output text.txt/x --column ask": "Predictions cannot be kept in",
    "predict toy --input in --output new": "has the columns ask, id; the recipe wants features, label.",
    "predict toy --workers 2": "predict fills a folder here",
}  # fmt: skip


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence(line, run):
    result = run(line)
    assert result.code == 2
    assert re.fullmatch(r"onehour: [^\n]+[.?!\w]\n", result.err), result.err
    assert MISTAKES[line] in result.err


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


PREDICT = "predict model --input in --column ask --batch-size 2"


def test_a_folder_of_continuations(run, place):
    result = run(f"{PREDICT} --num-tokens 30 --output said")
    assert (result.code, result.out) == (0, "19 predictions in said, 3 files\n")
    said, asked = pq.read_table(place / "said"), pq.read_table(place / "in")
    assert said.drop_columns("continuation").equals(asked)
    for ask, text in zip(asked["ask"].to_pylist()[::5], said["continuation"].to_pylist()[::5], strict=True):
        assert run(f"generate model --prompt '{ask}' --num-tokens 30 --temperature 0").out == f"{ask}{text}\n"
    before = {path: path.stat().st_mtime_ns for path in (place / "said").iterdir() if path.suffix}
    assert run(f"{PREDICT} --num-tokens 30 --output said").code == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    result = run(f"{PREDICT} --num-tokens 30 --seed 2 --output said")
    assert result.code == 2 and "holds something else than predictions of this model" in result.err


def test_what_is_killed_goes_on(run, place):
    killed = place / "killed"
    line = [sys.executable, "-m", "onehour", *shlex.split(PREDICT), "--num-tokens", "300", "--output", "killed"]
    process = subprocess.Popen(line, cwd=place)
    while not files(killed):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = files(killed)
    assert 0 < len(made) < 3
    (killed / ".part-000002.parquet-1").write_text("half a file")
    assert run(f"{PREDICT} --num-tokens 300 --output killed").code == 0
    assert run(f"{PREDICT} --num-tokens 300 --output undisturbed").code == 0
    assert files(killed) == files(place / "undisturbed")
    assert made.items() <= files(killed).items()
    assert pq.read_table(killed)["ask"].equals(pq.read_table(place / "in")["ask"])


def test_any_number_of_workers_writes_the_same_bytes(run, place, local_ray):
    assert run(f"{PREDICT} --num-tokens 30 --output w0").code == 0
    for workers in (1, 3):
        result = run(f"{PREDICT} --num-tokens 30 --output w{workers} --workers {workers}")
        assert (result.code, result.out) == (0, f"19 predictions in w{workers}, 3 files\n")
        assert files(place / f"w{workers}") == files(place / "w0")


def test_a_folder_of_a_recipes_predictions(run, place, local_ray):
    points = pa.table({"features": [[float(i % 5), float(i % 3)] for i in range(9000)]})
    pq.write_table(points, place / "points.parquet", row_group_size=1000)
    result = run("predict toy --input points.parquet --output points --workers 2")
    assert (result.code, result.out) == (0, "9,000 predictions in points, 3 files\n")
    run("predict toy --input points.parquet --output points.table.parquet")
    assert pq.read_table(place / "points").equals(pq.read_table(place / "points.table.parquet"))
