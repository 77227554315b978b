"""Several language models on the same prompts, or on the same multiple-choice questions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onehour.data.conversations import parsed
from onehour.errors import InputError
from onehour.models.language import Choice, Language
from onehour.models.likelihood import choose
from onehour.show.table import align


@dataclass(frozen=True)
class Question:
    """A prompt; or with choices a question of which one choice is right."""

    prompt: str
    choices: tuple[str, ...] = ()
    right: int = 0


def read_questions(path: Path) -> list[Question]:
    """The lines of a file: of .jsonl objects with prompt, or with question, choices and answer; else plain prompts.

    Raises:
        InputError: it cannot be read, has no line, or one that is neither; names the line.
    """
    found = [
        question_of(line, f"{path}, line {number}") if path.suffix == ".jsonl" else Question(line)
        for number, line in enumerate(read_prompts(path), start=1)
        if line.strip()
    ]
    if len({bool(question.choices) for question in found}) != 1:
        raise InputError(
            f"{path} has {'both prompts and questions with choices' if found else 'no prompts'}; give either."
        )
    return found


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file; InputError if there are none."""
    try:
        prompts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(
            f"The prompts {path} cannot be read ({why}); name a text file with a prompt on each line."
        ) from error
    if not prompts:
        raise InputError(f"The file {path} has no prompts; write one on each line.")
    return prompts


def question_of(line: str, where: str) -> Question:
    """What a line of JSON asks."""
    row = parsed(line.encode(), where)
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        return Question(row["prompt"])
    if (
        isinstance(row, dict)
        and isinstance(row.get("question"), str)
        and is_choice(row.get("choices"), row.get("answer"))
    ):
        choices, answer = row["choices"], row["answer"]
        return Question(row["question"], tuple(choices), choices.index(answer) if isinstance(answer, str) else answer)
    raise InputError(
        f"{where} holds neither a prompt nor a question, its choices (a list of two or more) and its answer (one of them, "
        "or its number from 0)."
    )


def is_choice(choices: Any, answer: Any) -> bool:
    """Whether the answer is one of two or more choices."""
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        return False
    return answer in choices if isinstance(answer, str) else type(answer) is int and 0 <= answer < len(choices)


def samples_text(models: dict[str, Language], questions: Sequence[Question], choice: Choice) -> Iterator[str]:
    """Of each prompt, what each model makes of it: the answer of one that converses, or the continuation."""
    width = max(map(len, models)) + 2
    for question in questions:
        texts = {name: "".join(said(model, question.prompt, choice)).strip() for name, model in models.items()}
        lines = (f"{name:<{width}}{text.replace(chr(10), chr(10) + ' ' * width)}" for name, text in texts.items())
        yield "\n".join([question.prompt, "", *lines, ""])


def said(model: Language, prompt: str, choice: Choice) -> Iterator[str]:
    """What a model says to a prompt."""
    if model.chat.template is None:
        return model.write(prompt, choice)
    return model.answer([{"role": "user", "content": prompt}], choice)


def choices_text(models: dict[str, Language], questions: Sequence[Question]) -> str:
    """How many of the questions each model answers right."""
    guessing = sum(1 / len(question.choices) for question in questions) / len(questions)
    lines = [["", "right", "right, per byte"]]
    for name, model in models.items():
        found = [choose(model, question.prompt, question.choices) for question in questions]
        right = [sum(f[i] == q.right for f, q in zip(found, questions, strict=True)) / len(questions) for i in (0, 1)]
        lines.append([name, *(f"{share:.1%}" for share in right)])
    return f"{align(lines)}\n\n{len(questions):,} questions; guessing answers {guessing:.1%} right"
