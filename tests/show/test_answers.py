"""Models compared on prompts and on multiple choice: likelihoods are those of transformers."""

import json

import pytest
import torch
from tiny import WORDS, write_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from onehour.cli import main
from onehour.errors import InputError
from onehour.models.language import Choice, Language
from onehour.models.likelihood import choose, log_likelihoods
from onehour.models.pretrained import open_pretrained
from onehour.show.answers import Question, choices_text, read_questions, samples_text

CHOICES = ["red", "blue is the color", "ten"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny")
    return {"talks": write_tiny(place / "talks"), "continues": write_tiny(place / "continues", template=None)}


def by_hand(folder, before, ends):
    """The log-likelihood of each end, computed by transformers one by one."""
    model, words = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    first, found = words.encode(before, add_special_tokens=False), []
    for end in ends:
        rest = words.encode(end, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([first + rest])).logits[0].log_softmax(dim=-1)
        found.append(sum(logits[len(first) + i - 1, token].item() for i, token in enumerate(rest)))
    return found


@pytest.mark.parametrize("kind", ["talks", "continues"])
def test_the_likeliest_choice_is_that_of_transformers(kind, folders):
    language = Language.of_pretrained(open_pretrained(folders[kind]))
    for word in WORDS[:4]:
        question = f"the color {word} is"
        before = f"<|start|>user\n{question}<|end|>\n<|start|>assistant\n" if kind == "talks" else question
        ends = CHOICES if kind == "talks" else [f" {choice}" for choice in CHOICES]
        likely = by_hand(folders[kind], before, ends)
        each = [value / len(end) for value, end in zip(likely, ends, strict=True)]
        assert choose(language, question, CHOICES) == (likely.index(max(likely)), each.index(max(each)))


def test_likelihoods_are_sums_over_the_tokens_of_each_text_alone(folders):
    language = Language.of_pretrained(open_pretrained(folders["talks"]))
    texts = [language.tokenizer.encode(text.encode()).tolist() for text in CHOICES]
    before = language.tokenizer.encode(b"one two").tolist()
    assert log_likelihoods(language.model, before, texts).tolist() == pytest.approx(
        by_hand(folders["talks"], "one two", CHOICES), rel=1e-4
    )


def test_tables(folders):
    models = {name: Language.of_pretrained(open_pretrained(folder)) for name, folder in folders.items()}
    answers = [choose(models["talks"], word, CHOICES)[0] for word in WORDS]
    text = choices_text(models, [Question(w, tuple(CHOICES), a) for w, a in zip(WORDS, answers, strict=True)])
    lines = text.splitlines()
    assert lines[0].split() == ["right", "right,", "per", "byte"]
    assert lines[1].split()[:2] == ["talks", "100.0%"]
    assert lines[-1] == f"{len(WORDS)} questions; guessing answers 33.3% right"
    (sample,) = samples_text(models, [Question("one")], Choice(4))
    talked = models["talks"].answer([{"role": "user", "content": "one"}], Choice(4))
    said = ["".join(talked), "".join(models["continues"].write("one", Choice(4)))]
    assert sample.splitlines()[0] == "one"
    assert [line.split(maxsplit=1)[0] for line in sample.splitlines()[2:] if line[:1].strip()] == ["talks", "continues"]
    assert all(text.strip().splitlines()[0] in sample for text in said)


def test_the_command(folders, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    main(["compare", *map(str, folders.values()), "--prompts", str(tmp_path / "prompts.txt"), "--num-tokens", "3"])
    assert [line for line in capsys.readouterr().out.splitlines() if line in ("one", "two")] == ["one", "two"]


GOOD = {"question": "q", "choices": ["a", "b"], "answer": "b"}


def test_questions_are_read_by_their_form(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD | {'answer': 0})}\n")
    assert read_questions(path) == [Question("q", ("a", "b"), 1), Question("q", ("a", "b"), 0)]
    path.write_text('{"prompt": "p"}\n')
    assert read_questions(path) == [Question("p")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is no JSON"),
        (json.dumps(GOOD | {"answer": "c"}), "line 2 holds neither"),
        (json.dumps(GOOD | {"answer": 2}), "line 2 holds neither"),
        (json.dumps(GOOD | {"choices": ["b"]}), "line 2 holds neither"),
        (json.dumps({"prompt": "p"}), "has both prompts and questions with choices; give either"),
    ],
)
def test_mistakes_are_one_sentence(line, says, tmp_path):
    (tmp_path / "q.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(InputError, match=says):
        read_questions(tmp_path / "q.jsonl")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="has no prompts"):
        read_questions(tmp_path / "empty.txt")


def test_a_question_that_is_too_long(folders):
    with pytest.raises(InputError, match="tokens with its longest choice, and the model reads 256"):
        choose(Language.of_pretrained(open_pretrained(folders["talks"])), "one " * 300, CHOICES)
