"""The exceptions that end a command with one sentence."""


class InputError(Exception):
    """Something that was asked for cannot be done.

    The message is one sentence that says what was asked, what there is and what to do. The command line prints the
    sentence alone and exits with 2; a notebook shows it as any other exception.
    """


class TrainingError(RuntimeError):
    """A training that had begun and cannot go on: it diverged, or its checkpoint cannot be written.

    The message is one sentence; the command line prints it and exits with 1. The checkpoints so far are kept.
    """
