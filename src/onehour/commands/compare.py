"""onehour compare: language models on one file of prompts, or of multiple-choice questions."""

from collections.abc import Sequence

from onehour.cli import runs_and_options
from onehour.commands.config import CompareConfig
from onehour.commands.language import open_language, run_or_path
from onehour.errors import InputError


def compare(arguments: Sequence[str]) -> None:
    """onehour compare RUN|PATH ...: what language models make of the same prompts, or which answers they find likelier."""
    names, options = runs_and_options(CompareConfig, arguments, "compare")
    if options.prompts is None:
        raise InputError(f"compare wants prompts, such as: onehour compare {' '.join(names)} --prompts prompts.txt")
    from onehour.show.answers import choices_text, read_questions, samples_text

    questions = read_questions(options.prompts)
    found = {name: run_or_path(options.runs, name) for name in dict.fromkeys(names)}
    models = {name: open_language(place) for name, place in found.items()}
    if questions[0].choices:
        print(choices_text(models, questions))
        return
    for text in samples_text(models, questions, options.choice()):
        print(text, flush=True)
