"""Fine-tuning: only answers are learned, what is packed together does not meet, LoRA is that of peft."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import conversation, write_conversations, write_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from onehour.config import ScaleConfig
from onehour.data.answers import Encoded, Writer, fit, pack
from onehour.data.chat import Chat
from onehour.data.conversations import read_conversations
from onehour.data.docstrings import functions_in
from onehour.data.prepare import prepare
from onehour.data.sources import find_text
from onehour.data.tokens import open_tokenizer
from onehour.errors import InputError
from onehour.models.language import Choice, Language
from onehour.recipe import recipe_from
from onehour.recipes.finetune import FineTune
from onehour.training.keep import keep
from onehour.training.loop import train
from onehour.training.run import create_run, load_trained


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("finetune")
    write_tiny(place / "tiny")
    write_conversations(place / "talk.jsonl")
    return place


@pytest.fixture
def recipe(place):
    return FineTune(str(place / "tiny"), str(place / "talk.jsonl"), context=160, lora_rank=4)


def config_of(recipe, **changes):
    return dataclasses.replace(
        recipe.defaults(), num_steps=6, log_every=1, evaluate_every=3, micro_batch_size=None, **changes
    )


def test_the_loss_of_answers_is_that_of_transformers_one_conversation_at_a_time(recipe, place):
    """By hand: transformers renders and computes; only tokens after the assistant's header, to the end of its turn, count."""
    data, model = prepare(recipe), recipe.begin(prepare(recipe).folder).eval()
    twin, words = (kind.from_pretrained(place / "tiny") for kind in (AutoModelForCausalLM, AutoTokenizer))
    total, num = 0.0, 0
    for conversation_ in recipe.conversations()[1]:
        ids, labels = [], []
        for message in conversation_.messages:
            head, said = (words.encode(text, add_special_tokens=False) for text in (
                f"<|start|>{message['role']}\n", f"{message['content']}<|end|>"))  # fmt: skip
            newline = words.encode("\n", add_special_tokens=False)
            ids += head + said + newline
            labels += [-100] * len(head) + (said if message["role"] == "assistant" else [-100] * len(said))
            labels += [-100] * len(newline)
        with torch.no_grad():
            loss = twin(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
        answers = sum(label != -100 for label in labels)
        total, num = total + loss * answers, num + answers
    batch = data.held_out[range(len(data.held_out))]
    with torch.no_grad():
        counted = {name: value.item() for name, value in recipe.count(model, batch).items()}
    assert counted["tokens"] == num
    assert counted["loss"] == pytest.approx(total, rel=1e-4)
    metrics = recipe.metrics(counted, len(data.held_out), data.facts)
    assert metrics["perplexity"] == pytest.approx(np.exp(total / num), rel=1e-4)


def test_the_mean_over_samples_is_the_mean_over_tokens(recipe):
    rows = prepare(recipe).train
    batch, model = rows[range(len(rows))], recipe.begin(prepare(recipe).folder).eval()
    with torch.no_grad():
        counted = recipe.count(model, batch)
        assert recipe.loss(model, batch).mean() == pytest.approx(
            counted["loss"].item() / counted["tokens"].item(), rel=1e-5
        )


def test_a_conversation_never_notices_what_it_is_packed_with(recipe):
    """Nor what a row is filled with: the logits of each are those of the conversation alone."""
    data, model = prepare(recipe), recipe.begin(prepare(recipe).folder).eval()
    tokens, parts = (data.train[range(4)][name].long() for name in ("tokens", "part"))
    assert parts.max() > 1
    with torch.no_grad():
        together = model(tokens, parts=parts)
        for row in range(4):
            for part in range(1, int(parts[row].max()) + 1):
                own = parts[row] == part
                alone = model(tokens[row, own][None])
                torch.testing.assert_close(together[row, own], alone[0], rtol=1e-4, atol=1e-4)


def test_every_answer_is_in_the_rows_once(recipe, place):
    data, tokenizer = prepare(recipe), open_tokenizer(prepare(recipe).folder)
    found = []
    for rows in (data.train, data.held_out):
        batch = rows[range(len(rows))]
        for tokens, weights in zip(batch["tokens"], batch["weight"], strict=True):
            text = "".join(tokenizer.decode(tokens[weights > 0].tolist()))
            found += text.split("<|end|>")[:-1]
    wanted = [m["content"] for i in range(60) for m in conversation(i) if m["role"] == "assistant"]
    assert sorted(found) == sorted(wanted)


def test_packing_fills_rows_and_loses_nothing():
    lengths = np.random.default_rng(1).integers(3, 90, 300).tolist()
    conversations = [Encoded(np.full(n, n), np.ones(n, bool)) for n in lengths]
    rows = pack(conversations, 100)
    assert sorted(len(c) for row in rows for c in row) == sorted(lengths)
    assert all(sum(map(len, row)) <= 100 for row in rows)
    assert len(rows) <= sum(lengths) / 100 * 1.1


def test_long_conversations_are_cut_or_left_out_and_counted():
    early, late = ([False] * n + [True] * 5 for n in (3, 30))
    fitting, num_cut, num_left_out = fit([Encoded(np.arange(len(a)), np.array(a)) for a in (early, late, late)], 6)
    assert ([len(c) for c in fitting], num_cut, num_left_out) == ([6], 1, 2)


@pytest.mark.parametrize("rank", [4, None])
def test_a_training_learns_and_its_run_needs_nothing_else(rank, recipe, place, tmp_path, monkeypatch):
    """Killed and resumed it comes to the same weights; moved away from its data and its model, it answers."""
    shutil.copytree(place / "tiny", tmp_path / "tiny")
    recipe = dataclasses.replace(recipe, pretrained=str(tmp_path / "tiny"), lora_rank=rank)
    data, config = prepare(recipe), config_of(recipe, checkpoint_every=3, learning_rate=3e-2 if rank else 1e-2)
    run = create_run(tmp_path / "runs", "one", "finetune")
    run.describe(recipe, config, ScaleConfig(), data)
    reports = list(keep(train(recipe, config, data=data), run))
    assert reports[0].step == 0 and set(reports[0].metrics) == {"held_out_loss", "held_out_perplexity"}
    assert reports[-1].metrics["held_out_loss"] < reports[0].metrics["held_out_loss"] - 0.3
    again = [r.metrics["loss"] for r in train(recipe, config, run.checkpoint_at(3), data=data)]
    assert again == [r.metrics["loss"] for r in reports if r.step > 3]
    size = (run.checkpoint_at(6) / "model.safetensors").stat().st_size
    whole = (run.folder / "data" / "model.safetensors").stat().st_size
    assert size < 0.5 * whole if rank else size > 0.9 * whole

    shutil.rmtree(tmp_path / "tiny")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    run.folder.rename(tmp_path / "moved")
    moved, model = load_trained(dataclasses.replace(run, folder=tmp_path / "moved"))
    assert moved == recipe_from(recipe.describe()) == recipe
    folder = tmp_path / "moved" / "data"
    answer = "".join(Language.of_folder(model, folder).answer(conversation(1)[:1], Choice(5)))
    assert answer == "".join(recipe.generate(model, folder, conversation(1)[0]["content"], Choice(5)))
    assert "before  " in recipe.closing_words(model, folder, reports[-1].metrics, data.facts)
    assert not any("lora" in name for name, _ in model.named_parameters())


ROWS = {
    "messages": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "prompt": {"prompt": "q", "completion": "a"},
    "prompt of messages": {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
    },
}


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_the_forms_in_which_conversations_are_published(form, suffix, tmp_path):
    path, rows = tmp_path / f"talk.{suffix}", [ROWS[form]] * 3
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)) + "\n\n")
    read = list(read_conversations(find_text(str(path))))
    assert [c.messages for c in read] == [ROWS["messages"]["messages"]] * 3
    assert len({c.name for c in read}) == 3


def test_an_instruction_with_an_input_is_one_question(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"instruction": "Add.", "input": "1 2", "output": "3"}))
    (read,) = read_conversations(find_text(str(tmp_path / "a.jsonl")))
    assert read.messages[0] == {"role": "user", "content": "Add.\n\n1 2"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{broken", "talk.jsonl, line 2 is no JSON"),
        (b"\xff\xfe", "talk.jsonl, line 2 is no JSON"),
        ("[1]", "talk.jsonl, line 2 has list; a row holds messages or conversations or instruction and output or"),
        ('{"text": "t"}', "talk.jsonl, line 2 has text; a row holds"),
        ('{"messages": [{"role": "user", "content": "q"}]}', "line 2 has no answer of an assistant in it"),
        ('{"messages": [{"role": "robot", "content": "q"}]}', "line 2 has a message of the role 'robot'"),
        ('{"messages": ["q"]}', "line 2 has a message of the role None"),
        ('{"instruction": "q", "output": 3}', "line 2 has a message of the role 'assistant' with int as its content"),
    ],
)
def test_a_broken_line_is_named(line, says, tmp_path):
    good = json.dumps(ROWS["alpaca"]).encode()
    path = tmp_path / "talk.jsonl"
    path.write_bytes(b"\n".join([good, line if isinstance(line, bytes) else line.encode(), good]))
    with pytest.raises(InputError, match=says.replace("(", r"\(").replace("[", r"\[")):
        list(read_conversations(find_text(str(path))))


def test_mistakes_are_one_sentence(place, tmp_path):
    talk, tiny = str(place / "talk.jsonl"), str(place / "tiny")
    (tmp_path / "one.jsonl").write_text(json.dumps(ROWS["alpaca"]))
    for recipe, says in (
        (FineTune(str(tmp_path / "none"), talk), "There is no model at .*none to begin with; .* make pretrained"),
        (FineTune(tiny, talk, context=1000), "context is 1000, and .* reads at most 256 tokens"),
        (FineTune(tiny, str(tmp_path / "one.jsonl"), context=160), "has no conversation to train on with an answer"),
    ):
        with pytest.raises(InputError, match=says):
            prepare(recipe)


def test_a_template_that_rewrites_earlier_turns_is_refused(place):
    writer = Writer(Chat("{{ messages | length }}{{ messages[-1].content }}"), open_tokenizer(place / "tiny"))
    with pytest.raises(InputError, match="does not write a conversation turn by turn"):
        writer.encode(conversation(0))


def test_a_file_of_ones_own_may_be_held_out(recipe, place, tmp_path):
    write_conversations(tmp_path / "exam.jsonl", 5)
    chosen = dataclasses.replace(recipe, held_out=str(tmp_path / "exam.jsonl"))
    train_, held_out = chosen.conversations()
    assert (len(train_), len(held_out)) == (60, 5)


def test_of_functions_the_docstring_is_taken_out_and_nothing_else():
    source = '''
class C:
    @property
    def f(self, x="""no"""):
        # first
        """Does it.

        More.
        """

        return "x"  # last

    def g(self): pass

    async def h(self):
        "Waits\\n        long."
        await self
    def i(self):
        """Only words."""
'''
    assert list(functions_in(source)) == [
        ('def f(self, x="""no"""):\n    # first\n    return "x"  # last', "Does it."),
        ("async def h(self):\n    await self", "Waits long."),
    ]


def test_the_docstrings_held_out_are_of_modules_that_are_not_trained():
    train_, held_out = FineTune().conversations()
    modules = [{c.name.partition("/")[0] for c in side} for side in (train_, held_out)]
    assert not modules[0] & modules[1]
    answers = [{c.messages[1]["content"] for c in side} for side in (train_, held_out)]
    assert not answers[0] & answers[1]
    assert len(train_) > 1000 and len(held_out) == 160
