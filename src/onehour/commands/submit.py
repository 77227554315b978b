"""onehour submit and jobs: a command of onehour as a job of a Ray cluster, followed from here."""

import os
import shlex
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from onehour.cli import COMMANDS, fail, find_command, parse, this_command
from onehour.cluster.local import check_extra, local_cluster
from onehour.commands.config import JobsConfig, SubmitConfig
from onehour.commands.prepare import check_storage, prepare_options
from onehour.commands.scale import scale_options
from onehour.commands.search import read_asked
from onehour.commands.train import Resume, train_options
from onehour.errors import InputError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

JOBS_HELP = """usage: onehour jobs [status ID | logs ID | stop ID] [--address http://HEAD:8265]

  onehour jobs             the jobs of the cluster: their ids, how they are, since when
  onehour jobs status ID   how one is
  onehour jobs logs ID     what it says, from its beginning to its end; ends with the job's exit code
  onehour jobs stop ID     let it save and end

`ray job list`, `status`, `logs` and `stop` do the same, with the cluster's token in the environment."""


PLACES = {  # the commands whose options are checked before they travel, and those that name where things are kept
    "train": ("--runs", "--storage"),
    "search": ("--runs",),
    "scale": ("--runs",),
    "prepare": ("--storage",),
}


def submit(arguments: Sequence[str]) -> None:
    """onehour submit [options] -- COMMAND ...: run a command of onehour on a cluster, and follow it."""
    before = list(takewhile(lambda word: word != "--", arguments))
    line = list(arguments[len(before) + 1 :])
    if not {"-h", "--help"} & set(before) and (not line or line[0] not in COMMANDS):
        none = f"; there is no command {line[0]!r}." if line else ""
        raise InputError(f"submit wants a command after --, such as: onehour submit -- train gpt --workers 2{none}")
    options = parse(SubmitConfig, before, "submit")
    if {"-h", "--help"} & set(line):
        find_command(line[0])(line[1:])
        return
    address = find_address(options.address)
    check_options(line, address)
    line = with_places(line, address)
    from onehour.cluster.jobs import check_versions, job_client, send
    from onehour.cluster.package import measure, runtime_env

    environment = runtime_env(Path.cwd(), options.runtime_env)
    num_files, num_bytes = measure(environment)
    client = job_client(address)
    for warning in check_versions(client):
        print(f"onehour: {warning}", file=sys.stderr)
    print(f"folder     {Path.cwd()}: {num_files:,} files, {num_bytes / 1e6:.1f} MB, go along", flush=True)
    job = send(client, f"python -m onehour {shlex.join(line)}", environment)
    print(f"job        {job}", flush=True)
    if options.follow:
        follow(client, job, options.address)
    else:
        print(f"follow it  {jobs_command('logs', job, options.address)}")
        print(f"stop it    {jobs_command('stop', job, options.address)}")


def find_address(asked: str | None) -> str:
    """The URL of the job server: the one asked for, that of $RAY_API_SERVER_ADDRESS, or of the cluster on this machine.

    Raises:
        InputError: there is none of them, or the extra is missing that speaks to it.
    """
    check_extra()
    there = local_cluster()
    address = asked or os.environ.get("RAY_API_SERVER_ADDRESS") or (there.jobs if there else None)
    if address is None:
        raise InputError(
            "There is no cluster to speak to: name one by --address http://HEAD:8265, or start one on this machine by: "
            "onehour cluster start"
        )
    return address.rstrip("/")


def check_options(line: Sequence[str], address: str) -> None:
    """Find mistakes in the options of a command that would show on the cluster.

    Raises:
        InputError: there is one.
    """
    command, arguments = line[0], line[1:]
    if command not in PLACES or places(line).resume or places(line).from_:
        return  # of a run or search that goes on, or is begun from, the options' defaults may not be seen from here
    if command != "train" and (not arguments or arguments[0].startswith("-")):
        raise InputError(f"{command} wants a recipe first, such as: onehour submit -- {command} gpt")
    match command:
        case "train":
            train_options(arguments)
        case "search":
            read_asked(arguments)
        case "scale":
            scale_options(arguments)
        case "prepare":
            check_storage(prepare_options(arguments)[1], address)


def places(line: Sequence[str]) -> Resume:
    """What a command says of the places where it keeps things."""
    return tyro.cli(Resume, args=line[1:], return_unknown_args=True)[0]


def with_places(line: list[str], address: str) -> list[str]:
    """The command, with the folders in which it keeps things such that they stay when the job has ended.

    Raises:
        InputError: they would go with the job.
    """
    known = places(line)
    named = {"--runs": str(known.runs), "--storage": known.storage or ""}
    going = {option: named[option] for option in PLACES.get(line[0], ()) if is_relative(named[option])}
    there = local_cluster()
    if there and there.jobs == address:
        return [*line, *(word for option, place in going.items() for word in (option, str(Path(place).absolute())))]
    if known.storage and "--storage" not in going:
        return line  # the run is copied there
    for option, place in going.items():
        raise InputError(
            f"{option} {place} would be a folder of the job, and go with it; name one that all nodes of the cluster share, "
            f"such as {option} /shared/runs."
        )
    return line


def is_relative(place: str) -> bool:
    """Whether a place is a folder that depends on where one is."""
    return place != "" and "://" not in place and not Path(place).is_absolute()


def jobs(arguments: Sequence[str]) -> None:
    """onehour jobs [status ID | logs ID | stop ID] [options]: see the jobs of a cluster, follow one, stop one."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(JOBS_HELP)
        return
    words = list(takewhile(lambda word: not word.startswith("-"), arguments))
    options = parse(JobsConfig, arguments[len(words) :], "jobs")
    if len(words) not in (0, 2) or words[:1] not in ([], ["status"], ["logs"], ["stop"]):
        raise InputError(
            f"There is no: onehour jobs {' '.join(words)}; there are onehour jobs, and status, logs, stop ID."
        )
    address = find_address(options.address)
    from onehour.cluster.jobs import details, job_client, job_line, job_lines, stop

    client = job_client(address)
    match words:
        case ["logs", job]:
            follow(client, job, options.address)
        case ["stop", job]:
            print(job_line(stop(client, job)))
        case ["status", job]:
            print(job_line(details(client, job)))
        case _:
            print("\n".join(job_lines(client)))


def follow(client: "JobSubmissionClient", job: str, asked: str | None) -> None:
    """Print what the job says, and exit as it does. Ctrl-C ends the following, and not the job."""
    from onehour.cluster.jobs import STOPPED, follow_to_end

    try:
        code = follow_to_end(client, job)
    except KeyboardInterrupt:
        again, stop = jobs_command("logs", job, asked), jobs_command("stop", job, asked)
        fail(f"The job goes on; follow it again by: {again}, or stop it by: {stop}", 130, at_once=True)
    if code:
        fail(f"The job {job} {'was stopped' if code == STOPPED else f'ended with {code}'}.", code)


def jobs_command(verb: str, job: str, asked: str | None) -> str:
    """A command about the job, for the cluster that was asked for."""
    return f"{this_command()} jobs {verb} {job}" + (f" --address {asked}" if asked else "")
