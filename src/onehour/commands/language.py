"""onehour generate, chat and export: a language model at work, of a run or pretrained."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from onehour.cli import run_and_options
from onehour.commands.config import ChatConfig, ExportConfig, GenerateConfig
from onehour.errors import InputError

if TYPE_CHECKING:
    from onehour.data.chat import Message
    from onehour.models.language import Language
    from onehour.training.run import Run

CHAT_HELP = "Type, and Enter sends; /new begins a new conversation; Ctrl-D or Ctrl-C ends."


def generate(arguments: Sequence[str]) -> None:
    """onehour generate RUN|PATH [options]: continue a prompt, streaming, or a file of prompts in batches."""
    name, options = run_and_options(GenerateConfig, arguments, "generate")
    found = run_or_path(options.runs, name)
    if options.chat and not options.prompts:
        raise InputError(f"--chat is for a file of --prompts; to ask by hand: onehour chat {name}")
    if options.prompts:
        generate_all(found, options)
        return
    pieces = continuation(found, options)
    print(options.prompt, end=next(pieces, ""), flush=True)  # what is wrong with the prompt is said before it
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def continuation(found: "Run | Path", options: GenerateConfig) -> Iterator[str]:
    """What follows the prompt, piece by piece; a recipe of one's own may have its own way."""
    from onehour.training.run import Run, load_trained

    if isinstance(found, Run):
        recipe, model = load_trained(found)
        return recipe.generate(model, found.folder / "data", options.prompt, options.choice())
    return open_language(found).write(options.prompt, options.choice())


def generate_all(found: "Run | Path", options: GenerateConfig) -> None:
    """A line of JSON for each prompt of the file, in its order, as soon as its batch is done."""
    from onehour.show.answers import read_prompts

    assert options.prompts is not None
    prompts = read_prompts(options.prompts)
    language = open_language(found)
    for prompt in prompts:
        language.tokens_of(prompt, options.chat)  # says at once which one is too long
    choice, left = options.choice(), iter(prompts)
    while batch := list(islice(left, options.batch_size)):
        for prompt, text in zip(batch, language.write_all(batch, choice, options.chat), strict=True):
            print(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False), flush=True)


def chat(arguments: Sequence[str]) -> None:
    """onehour chat RUN|PATH [options]: talk to a language model that was trained on conversations."""
    name, options = run_and_options(ChatConfig, arguments, "chat")
    language = open_language(run_or_path(options.runs, name))
    if language.chat.template is None:
        raise InputError(f"{name} has no chat template, so it cannot converse; try: onehour generate {name}")
    beginning: list[Message] = [{"role": "system", "content": options.system}] if options.system else []
    if sys.stdin.isatty():
        import readline  # noqa: F401  the arrow keys, at the question

        print(CHAT_HELP)
    try:
        converse(language, beginning, options)
    except EOFError:
        print(end="\n" if sys.stdin.isatty() else "")
    except KeyboardInterrupt:
        print()


def converse(language: "Language", beginning: "list[Message]", options: ChatConfig) -> None:
    """Ask and answer until the questions end."""
    messages, choice = list(beginning), options.choice()
    while True:
        words = input("> " if sys.stdin.isatty() else "").strip()
        if words == "/new":
            messages = list(beginning)
        if not words or words == "/new":
            continue
        question: Message = {"role": "user", "content": words}
        answer = ""
        try:
            for piece in language.answer([*messages, question], choice):
                print(piece, end="", flush=True)
                answer += piece
            print()
        except InputError as error:
            print(f"{error} Begin a new conversation by /new.", file=sys.stderr)
            continue
        messages += [question, {"role": "assistant", "content": answer}]
        choice = replace(choice, seed=choice.seed + 1)


def export(arguments: Sequence[str]) -> None:
    """onehour export RUN|PATH --to DIR: write a language model as Hugging Face's transformers opens it."""
    name, options = run_and_options(ExportConfig, arguments, "export")
    if options.to is None:
        raise InputError(f"export wants a folder, such as: onehour export {name} --to exported")
    from onehour.models.huggingface import write_folder

    language = open_language(run_or_path(options.runs, name))
    write_folder(options.to, language.model, language.tokenizer.json(), language.chat)
    print(
        f"{name} is in {options.to}; transformers opens it: AutoModelForCausalLM.from_pretrained({str(options.to)!r})"
    )


def run_or_path(runs: Path, name: str) -> "Run | Path":
    """The run of this name or path, or the path of a pretrained model.

    Raises:
        InputError: there is no such run, and nothing at such a path.
    """
    from onehour.data.chat import read_json
    from onehour.training.run import open_run

    path = Path(name)
    in_runs = not path.is_absolute() and (runs / name).exists()  # an absolute path is itself, whatever stands before it
    is_run = in_runs or (path / "search.json").exists() or "recipe" in read_json(path / "config.json")
    return path if path.exists() and not is_run else open_run(runs, name)


def open_language(found: "Run | Path") -> "Language":
    """The language model of a run or at a path.

    Raises:
        InputError: it is none, or it cannot be read.
    """
    from onehour.models.gpt import GPT
    from onehour.models.language import Language
    from onehour.models.pretrained import open_pretrained
    from onehour.training.run import Run, load_trained

    if not isinstance(found, Run):
        return Language.of_pretrained(open_pretrained(found))
    recipe, model = load_trained(found)
    if not isinstance(model, GPT):
        raise InputError(
            f"The run {found.name} trained no language model; try: onehour {recipe.next_command()} {found.name}"
        )
    return Language.of_folder(model, found.folder / "data")
