"""The command line: onehour train, search, generate, predict, show and others: see HELP.

Options come from the dataclasses in config.py and from the fields of the recipe. A command is a function of its name in
one of the modules of commands/. That module, and with it torch and ray, is imported when the command is called, so that
help answers at once.
"""

import difflib
import importlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TypeVar

import tyro

from onehour import __version__
from onehour.errors import InputError, TrainingError
from onehour.recipe import RECIPES, short_traceback

HELP = f"""One hour from a tensor to a cluster: the same training in this process, under torchrun and on Ray.

usage: onehour COMMAND ...

  train RECIPE      train a recipe: {", ".join(RECIPES)}, or a Python file of your own
  search RECIPE     try hyperparameters: many short trainings, the hopeless ones stopped early
  scale RECIPE      the same training by 1, 2, 4 workers: how it scales, and why
  prepare RECIPE    prepare a recipe's data ahead of a training, by one process or many
  generate RUN      continue a prompt, or a file of them, with a language model: a run's, or a pretrained one by its path
  chat RUN          talk to one
  compare RUN ...   language models on the same prompts, or on multiple-choice questions
  export RUN        write one as Hugging Face's transformers opens it
  predict RUN       predict the held-out samples, or those of an Arrow or Parquet file
  show RUN ...      the losses and the configuration of a run, or several runs compared; also as a page, --html
  runs              the runs there are
  rm RUN ...        remove runs
  audit RUN         prove which samples a run has trained (after: train --audit)
  doctor            what this machine has, and what would not work here
  learn             the course, in JupyterLab, in a copy that you may change
  cluster           several Ray nodes on this machine: start, status, stop
  submit -- ...     run one of these commands on a Ray cluster, and follow it
  jobs              the jobs of a cluster: see, follow and stop them

onehour COMMAND --help has the options of each. To begin:

  onehour train gpt                    a small language model on this machine, in about two minutes
  onehour train digits --workers 2     two workers, the same loss
  onehour train toy --workers 0        in this process, without Ray: a debugger works
"""

COMMANDS = {  # command -> its module in commands/
    "train": "train",
    "search": "search",
    "scale": "scale",
    "prepare": "prepare",
    "generate": "language",
    "chat": "language",
    "compare": "compare",
    "export": "language",
    "predict": "use",
    "show": "look",
    "runs": "runs",
    "rm": "runs",
    "audit": "look",
    "doctor": "look",
    "learn": "look",
    "cluster": "cluster",
    "submit": "submit",
    "jobs": "submit",
}

Options = TypeVar("Options")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 a training that failed, 2 something asked for that cannot be, 130 Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    if arguments[0] == "--version":
        print(f"onehour {__version__}")
        return
    try:
        find_command(arguments[0])(arguments[1:])
    except (InputError, TrainingError) as error:
        fail(str(error), 2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        fail("Stopped.", 130, at_once=True)
    except BrokenPipeError:  # such as: onehour show RUN | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        told = short_traceback(error)
        if told is None:
            raise
        fail(told, 2)


def find_command(name: str) -> Callable[[Sequence[str]], None]:
    """The function of a command, which takes the arguments after its name.

    Raises:
        InputError: there is no such command.
    """
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(COMMANDS)}."
        raise InputError(f"There is no command {name!r}; {hint}")
    return getattr(importlib.import_module(f"onehour.commands.{COMMANDS[name]}"), name)  # type: ignore[no-any-return]


def fail(message: str, code: int, at_once: bool = False) -> None:
    """Say why on the error output, once under torchrun, and exit; `at_once` without Ray's leave-taking."""
    if os.environ.get("RANK", "0") == "0":
        print(f"onehour: {message}", file=sys.stderr)
    if at_once:
        sys.stderr.flush()
        os._exit(code)  # Ray would wait for a trainer that is gone
    sys.exit(code)


def parse(options: Callable[..., Options], arguments: Sequence[str], command: str) -> Options:
    """Arguments as a dataclass; on a mistake tyro explains it and exits with 2."""
    about = (find_command(command.split(maxsplit=1)[0]).__doc__ or "").partition(": ")[2].capitalize()
    return tyro.cli(
        options, args=arguments, prog=f"onehour {command}", description=about, config=(tyro.conf.OmitArgPrefixes,)
    )


def run_and_options(options: Callable[..., Options], arguments: Sequence[str], command: str) -> tuple[str, Options]:
    """The name of a run, which comes first, and the options after it."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise InputError(f"{command} wants the name of a run first, such as: onehour {command} gpt-1")
    if arguments[0] in ("-h", "--help"):
        parse(options, arguments, f"{command} RUN")
    return arguments[0], parse(options, arguments[1:], f"{command} RUN")


def runs_and_options(
    options: Callable[..., Options], arguments: Sequence[str], command: str
) -> tuple[list[str], Options]:
    """The names of runs, which come first, and the options after them."""
    names = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    if not names and not {"-h", "--help"} & set(arguments):
        raise InputError(f"{command} wants the names of runs first, such as: onehour {command} gpt-1")
    return names, parse(options, arguments[len(names) :], f"{command} RUN ...")


def this_command() -> str:
    """How to call this command line: onehour, or what was called where the shell would not find that."""
    if shutil.which("onehour"):
        return "onehour"
    return "python -m onehour" if sys.argv[0].endswith("__main__.py") else os.path.relpath(sys.argv[0])
