"""The checks of all chapters: nothing that one may answer makes them raise, and they hint in the notebook's language."""

import re
from pathlib import Path

import pytest

from onehour.course import check

from .answers import NONSENSE, wrong

FILES = sorted(Path(check.__file__).parent.glob("*.py"))
EXERCISES = [name for file in FILES for name in re.findall(rf"(?m)^def ({file.stem}_\d+)\(", file.read_text())]


@pytest.mark.parametrize("exercise", EXERCISES)
def test_nonsense_gets_a_hint_in_either_language(exercise, monkeypatch):
    for answer in NONSENSE:
        monkeypatch.setenv("ONEHOUR_LANGUAGE", "en")
        assert wrong(getattr(check, exercise)(answer)), answer
        monkeypatch.setenv("ONEHOUR_LANGUAGE", "zh")
        chinese = getattr(check, exercise)(answer)
        assert wrong(chinese) and not chinese.hint.isascii(), answer


def test_a_verdict_is_shown_in_words(monkeypatch):
    assert repr(check.tensors_1(...)) == "Not yet: the answer should be a tensor."
    monkeypatch.setenv("ONEHOUR_LANGUAGE", "zh")
    assert repr(check.tensors_1(...)) == "还不对：答案应当是一个张量。"
    assert repr(check.many_gpus_1(26)) == "正确。"


def test_no_chapter_needs_another_ones_checks():
    chapters = "|".join(sorted({name.rpartition("_")[0] for name in EXERCISES}))
    for file in FILES:
        assert re.findall(rf"from onehour.course.check.(?:{chapters})\b", file.read_text()) == [], file.name
