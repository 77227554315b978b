"""The exceptions that end a command with one sentence."""

from collections.abc import Sequence


class InputError(Exception):
    """Something that was asked for cannot be done.

    The message is one sentence that says what was asked, what there is and what to do. The command line prints the
    sentence alone and exits with 2; a notebook shows it as any other exception.
    """


class TrainingError(RuntimeError):
    """A training that had begun and cannot go on: it diverged, or its checkpoint cannot be written.

    The message is one sentence; the command line prints it and exits with 1. The checkpoints so far are kept.
    """


class DivergedError(TrainingError):
    """The loss or the gradient is no longer finite. `step` is the first such step, `sample_ids` what it trained."""

    def __init__(self, message: str, step: int = 0, sample_ids: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.step, self.sample_ids = step, list(sample_ids)
