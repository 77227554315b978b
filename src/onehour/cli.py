"""The command line: onehour train · generate · predict · show · audit · doctor · learn.

Options come from the dataclasses in config.py and from the fields of the recipe. torch and ray are imported by the
command that needs them, so that help answers at once.
"""

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from onehour.config import GenerateConfig, LearnConfig, PredictConfig, ScaleConfig, ShowConfig, TrainConfig
from onehour.errors import InputError, TrainingError
from onehour.recipe import RECIPES, Recipe, find_recipe, short_traceback

if TYPE_CHECKING:
    from onehour.training.run import Run

HELP = f"""One hour from a tensor to a cluster: the same training in this process, under torchrun and on Ray.

usage: onehour COMMAND ...

  train RECIPE      train a recipe: {", ".join(RECIPES)}, or a Python file of your own
  generate RUN      continue a prompt with a trained language model
  predict RUN       predict the held-out samples, or those of an Arrow or Parquet file
  show RUN          the losses and the configuration of a run
  audit RUN         prove which samples a run has trained (after: train --audit)
  doctor            what this machine has, and what would not work here
  learn             the course, in JupyterLab, in a copy that you may change

onehour COMMAND --help has the options of each. To begin:

  onehour train gpt                    a small language model on this machine, in about two minutes
  onehour train digits --workers 2     two workers, the same loss
  onehour train toy --workers 0        in this process, without Ray: a debugger works
"""

TRAIN_HELP = f"""usage: onehour train RECIPE [options]

RECIPE is {", ".join(RECIPES)}, or the path of a Python file of your own.

  onehour train RECIPE --help    the options of that recipe
  onehour train --resume RUN     go on with a run from its newest good checkpoint"""

Options = TypeVar("Options")


@dataclasses.dataclass(frozen=True)
class Resume:
    """What has to be known before the other options: whose defaults they have."""

    resume: str | None = None
    runs: Path = Path("runs")
    storage: str | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 a training that failed, 2 something asked for that cannot be, 130 Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    commands = {
        "train": train,
        "generate": generate,
        "predict": predict,
        "show": show,
        "audit": audit,
        "doctor": doctor,
        "learn": learn,
    }
    try:
        if arguments[0] not in commands:
            raise InputError(f"There is no command {arguments[0]!r}; there are {', '.join(commands)}.")
        commands[arguments[0]](arguments[1:])
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
    return tyro.cli(options, args=arguments, prog=f"onehour {command}", config=(tyro.conf.OmitArgPrefixes,))


def train(arguments: Sequence[str]) -> None:
    """onehour train RECIPE [options]: plan, train, show what came out."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(TRAIN_HELP)
        return
    recipe, config, scale = train_options(arguments)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1 and scale.workers != 0:
        raise InputError(
            "torchrun has started the workers already; add --workers 0, so that Ray does not start others."
        )
    from onehour.data.prepare import prepare
    from onehour.show.terminal import Progress, plan_text
    from onehour.training.device import find_device
    from onehour.training.keep import check_room
    from onehour.training.plan import make_plan, usable_sizes
    from onehour.training.run import create_run, open_run
    from onehour.training.storage import open_storage

    sizes = usable_sizes(config, scale) if scale.workers != 0 else []
    run = open_run(scale.runs, scale.resume) if scale.resume else None
    start = run.newest_checkpoint()[0] if run else None
    data = prepare(recipe)
    plan = make_plan(recipe, config, data, max(sizes, default=world_size), start)
    if scale.workers == 0:
        find_device(config.device)
    if rank > 0:
        train_beside_rank_0(recipe, config, start)
        return
    where = place(scale, sizes, world_size)
    check_room(scale.runs, plan.checkpoint_bytes, config.keep or 1)
    if scale.storage and not scale.resume:  # with --resume it was opened already
        open_storage(scale.storage)
    run = run or create_run(scale.runs, scale.name, recipe.name())
    progress, row = Progress(recipe, config), {}
    copied = f" --storage {scale.storage}" if scale.storage else ""
    go_on = f"go on with: {this_command()} train --resume {run.name}{elsewhere(run)}{copied}"
    try:
        with run.lock():
            run.describe(recipe, config, scale, data)
            print(plan_text(plan, recipe, config, where, run.folder), flush=True)
            if scale.resume:
                print(
                    f"resumes    {start.name if start else 'at the beginning: there is no checkpoint yet'}", flush=True
                )
            for row in drive(recipe, config, scale, run, plan.checkpoint_bytes):
                progress.show(row)
    except KeyboardInterrupt:
        fail(f"Stopped; {go_on}", 130, at_once=True)
    if row.get("interrupted"):
        fail(f"Stopped after step {row['step']:,}, which is saved; {go_on}", 130)
    finish(run)


def train_options(arguments: Sequence[str]) -> tuple[Recipe, TrainConfig, ScaleConfig]:
    """The options of onehour train. Their defaults are the recipe's, or with --resume those of the run."""
    named = not arguments[0].startswith("-")
    rest = arguments[1:] if named else arguments
    resume = tyro.cli(Resume, args=[a for a in rest if a not in ("-h", "--help")], return_unknown_args=True)[0]
    if resume.resume:
        from onehour.training.run import open_run
        from onehour.training.storage import fetch

        for warning in fetch(resume.storage, resume.resume, resume.runs) if resume.storage else []:
            print(f"onehour: {warning}", file=sys.stderr)
        run = open_run(resume.runs, resume.resume)
        recipe, config = run.recipe(), run.train_config()
        if named and find_recipe(arguments[0]).name() != recipe.name():
            raise InputError(f"The run {run.name} trains the recipe {recipe.name()}, not {arguments[0]}.")
    elif named:
        recipe = find_recipe(arguments[0])()
        config = recipe.defaults()
    else:
        raise InputError(
            f"There is no recipe to train; name one first ({', '.join(RECIPES)}, or a .py file), or --resume RUN."
        )
    command = f"train {arguments[0]}" if named else "train"
    options = parse_train(recipe, config, rest, command)
    if not resume.resume and options.recipe.defaults() != config:  # a recipe's options may change its defaults
        options = parse_train(options.recipe, options.recipe.defaults(), rest, command)
    return options.recipe, options.train, options.scale


def parse_train(recipe: Recipe, config: TrainConfig, arguments: Sequence[str], command: str) -> Any:
    """Arguments as an object with recipe, train and scale, starting from these defaults."""
    fields: list[tuple[str, Any, Any]] = [
        ("recipe", type(recipe), dataclasses.field(default=recipe)),
        ("train", TrainConfig, dataclasses.field(default=config)),
        ("scale", ScaleConfig, dataclasses.field(default=ScaleConfig())),
    ]
    options = dataclasses.make_dataclass("TrainOptions", fields, frozen=True)
    return parse(options, arguments, command)


def place(scale: ScaleConfig, sizes: Sequence[int], world_size: int) -> str:
    """Where the workers run, in words; `sizes` are the numbers of workers on Ray that can be used."""
    if world_size > 1:
        return f"{world_size} processes of torchrun"
    if scale.workers == 0:
        return "this process, without Ray"
    from onehour.cluster.address import cluster_address

    address = cluster_address(scale.address)
    each = f"{' or '.join(map(str, sizes))} on Ray" + (", a GPU each" if scale.gpu else "")
    return f"{each}, on the cluster at {address}" if address else f"{each}, on this machine"


def drive(
    recipe: Recipe, config: TrainConfig, scale: ScaleConfig, run: "Run", checkpoint_bytes: float
) -> Iterator[dict[str, Any]]:
    """Train in this process or on Ray; yields the rows of metrics.jsonl."""
    if scale.workers != 0:
        from onehour.cluster.launch import train_on_ray

        yield from train_on_ray(recipe, config, scale, run, checkpoint_bytes)
        return
    from onehour.training.interrupt import stop_requests
    from onehour.training.keep import keep, to_row
    from onehour.training.loop import train

    start, warnings = run.newest_checkpoint()
    yield from ({"warning": warning} for warning in warnings)
    with stop_requests() as wish:
        for report in keep(train(recipe, config, start, wish.is_set), run, config.keep, scale.storage):
            yield to_row(report)


def train_beside_rank_0(recipe: Recipe, config: TrainConfig, start: Path | None) -> None:
    """Take part in the training of rank 0, which says and keeps everything."""
    from onehour.training import loop
    from onehour.training.interrupt import stop_requests
    from onehour.training.keep import keep_part

    with stop_requests() as wish:
        for _ in keep_part(loop.train(recipe, config, start, wish.is_set)):
            pass


def finish(run: "Run") -> None:
    """Show what a finished run has brought, and where it is."""
    from onehour.show.curve import save_curve
    from onehour.show.terminal import in_bytes
    from onehour.training.run import load_trained

    rows = run.rows()
    recipe, model = load_trained(run)
    curve = save_curve(rows, run.name, run.folder / "curve.png")
    peak = max(row.get("peak_memory", 0) for row in rows)
    print(f"\n{recipe.closing_words(model, run.folder / 'data', rows[-1], run.facts())}\n")
    print(f"memory     {in_bytes(peak)} at its peak in the worker of rank 0")
    print(f"run        {run.folder}")
    print(f"curve      {curve}")
    print(f"try next   {this_command()} {recipe.next_command()} {run.name}{elsewhere(run)}")


def this_command() -> str:
    """How to call this command line: onehour, or what was called where the shell would not find that."""
    if shutil.which("onehour"):
        return "onehour"
    return "python -m onehour" if sys.argv[0].endswith("__main__.py") else os.path.relpath(sys.argv[0])


def elsewhere(run: "Run") -> str:
    """The option that finds the run, where it is not in the folder runs."""
    return "" if run.folder.parent == Path("runs").absolute() else f" --runs {run.folder.parent}"


def generate(arguments: Sequence[str]) -> None:
    """onehour generate RUN [options]: continue a prompt, streaming."""
    name, options = run_and_options(GenerateConfig, arguments, "generate")
    from onehour.training.run import load_trained, open_run

    run = open_run(options.runs, name)
    recipe, model = load_trained(run)
    text = recipe.generate(
        model, run.folder / "data", options.prompt, num_tokens=options.num_tokens, temperature=options.temperature,
        top_k=options.top_k, seed=options.seed,
    )  # fmt: skip
    print(options.prompt, end="")
    for piece in text:
        print(piece, end="", flush=True)
    print()


def predict(arguments: Sequence[str]) -> None:
    """onehour predict RUN [options]: predictions as a table, or as a Parquet file."""
    name, options = run_and_options(PredictConfig, arguments, "predict")
    from onehour.show.predictions import check, predict_rows, predictions_text, read_input, write_predictions
    from onehour.training.run import load_trained, open_run

    recipe, model = load_trained(open_run(options.runs, name))
    check(recipe, options.output)
    rows = read_input(recipe, options.input)
    predicted = predict_rows(recipe, model, rows)
    if options.output:
        write_predictions(predicted, options.output)
        print(f"{len(rows):,} predictions in {options.output}")
    else:
        print(predictions_text(predicted))


def show(arguments: Sequence[str]) -> None:
    """onehour show RUN: its curve, its evaluations, its configuration and where it is."""
    name, options = run_and_options(ShowConfig, arguments, "show")
    from onehour.show.curve import draw_curve, save_curve
    from onehour.show.table import configuration_text, evaluations_text
    from onehour.training.run import open_run

    run = open_run(options.runs, name)
    rows = run.rows()
    if not rows:
        raise InputError(f"The run {run.name} has told nothing yet; look again after its first steps.")
    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    print(draw_curve(rows, shutil.get_terminal_size().columns, colorless=plain))
    print(f"\n{evaluations_text(rows)}\n")
    print(configuration_text(run.config(), run.newest_checkpoint()[0]))
    print(f"run        {run.folder}")
    with contextlib.suppress(OSError):  # a run that one may read and not write has its terminal curve
        print(f"curve      {save_curve(rows, run.name, run.folder / 'curve.png')}")


def audit(arguments: Sequence[str]) -> None:
    """onehour audit RUN: whether every sample of every epoch was trained once; exit code 1 if not."""
    name, options = run_and_options(ShowConfig, arguments, "audit")
    from onehour.show.account import account_text
    from onehour.training.checkpoint import read_facts
    from onehour.training.record import examine, read_record
    from onehour.training.run import open_run

    run = open_run(options.runs, name)
    attempts = read_record(run.audit_file)
    checkpoint, _ = run.newest_checkpoint()
    if checkpoint is None:
        raise InputError(f"The run {run.name} has no good checkpoint yet, so there is nothing to account for.")
    facts = read_facts(checkpoint)
    account = examine(attempts, facts["attempt"], facts["step"])
    print(account_text(account))
    if account.wrong or account.lost or account.twice:
        raise TrainingError(f"The record of {run.name} does not prove that every sample was trained once.")


def doctor(arguments: Sequence[str]) -> None:
    """onehour doctor: what there is; exit code 1 if something would not work."""
    options = parse(ShowConfig, arguments, "doctor")
    from onehour.show.doctor import examine

    troubles = 0
    for finding in examine(options.runs):
        print(finding.line(), flush=True)
        troubles += finding.trouble
    if troubles:
        raise TrainingError(f"{troubles} of these would keep onehour from working: see the lines that begin with !")


def learn(arguments: Sequence[str]) -> None:
    """onehour learn: the course in JupyterLab, in a copy that may be changed."""
    options = parse(LearnConfig, arguments, "learn")
    from onehour.course.learn import open_course

    open_course(options.folder, options.language)


def run_and_options(options: Callable[..., Options], arguments: Sequence[str], command: str) -> tuple[str, Options]:
    """The name of a run, which comes first, and the options after it."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise InputError(f"{command} wants the name of a run first, such as: onehour {command} gpt-1")
    if arguments[0] in ("-h", "--help"):
        parse(options, arguments, f"{command} RUN")
    return arguments[0], parse(options, arguments[1:], f"{command} RUN")
