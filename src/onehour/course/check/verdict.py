"""What a check answers."""

from dataclasses import dataclass

from onehour.course.words import say


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right; if not, a hint. As the last line of a cell it is shown in words."""

    right: bool
    hint: str = ""

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return say("Right.", "正确。") if self.right else f"{say('Not yet: ', '还不对：')}{self.hint}"


RIGHT = Verdict(True)


def not_yet(english: str, chinese: str) -> Verdict:
    """The verdict on a wrong answer, with a hint in the language of the notebook."""
    return Verdict(False, say(english, chinese))
