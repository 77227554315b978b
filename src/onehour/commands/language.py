"""onehour generate, chat and export: a language model at work, of a run or pretrained."""

import sys
from collections.abc import Iterator, Sequence
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
    from onehour.models.language import Choice
    from onehour.training.run import Run, load_trained

    how = dict(num_tokens=options.num_tokens, temperature=options.temperature, top_k=options.top_k, seed=options.seed)
    if isinstance(found, Run):
        recipe, model = load_trained(found)
        return recipe.generate(model, found.folder / "data", options.prompt, **how)  # type: ignore[arg-type]
    return open_language(found).write(options.prompt, Choice(**how))  # type: ignore[arg-type]


def generate_all(found: "Run | Path", options: GenerateConfig) -> None:
    """A line of JSON for each prompt of the file, in its order, as soon as its batch is done."""
    import json

    from onehour.models.language import Choice

    prompts = read_prompts(options.prompts)  # type: ignore[arg-type]
    language = open_language(found)
    for prompt in prompts:
        language.tokens_of(prompt)  # says at once which one is too long
    choice = Choice(options.num_tokens, options.temperature, options.top_k, options.seed)
    left = iter(prompts)
    while batch := list(islice(left, options.batch_size)):
        for prompt, text in zip(batch, language.write_all(batch, choice), strict=True):
            print(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False), flush=True)


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
    from onehour.models.language import Choice

    messages, seed = list(beginning), options.seed
    while True:
        words = input("> " if sys.stdin.isatty() else "").strip()
        if words == "/new":
            messages = list(beginning)
        if not words or words == "/new":
            continue
        question: Message = {"role": "user", "content": words}
        answer = ""
        try:
            for piece in language.answer(
                [*messages, question], Choice(options.num_tokens, options.temperature, options.top_k, seed)
            ):
                print(piece, end="", flush=True)
                answer += piece
            print()
        except InputError as error:
            print(f"{error} Begin a new conversation by /new.", file=sys.stderr)
            continue
        messages += [question, {"role": "assistant", "content": answer}]
        seed += 1


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
