"""onehour submit and jobs: a command of onehour as a job of a Ray cluster, followed from here."""

import os
import shlex
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from onehour.cli import COMMANDS, fail, parse, this_command
from onehour.cluster.local import check_extra, local_cluster
from onehour.commands.config import JobsConfig, SubmitConfig
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


def submit(arguments: Sequence[str]) -> None:
    """onehour submit [options] -- COMMAND ...: run a command of onehour on a cluster, and follow it."""
    before = list(takewhile(lambda word: word != "--", arguments))
    line = list(arguments[len(before) + 1 :])
    if not {"-h", "--help"} & set(before) and (not line or line[0] not in COMMANDS):
        none = f"; there is no command {line[0]!r}." if line else ""
        raise InputError(f"submit wants a command after --, such as: onehour submit -- train gpt --workers 2{none}")
    options = parse(SubmitConfig, before, "submit")
    address = find_address(options.address)
    if line[0] == "train":
        line = check_train(line, address)
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


def check_train(line: list[str], address: str) -> list[str]:
    """The command line of a training with its options checked, and its run in a folder that stays when the job has ended.

    Raises:
        InputError: an option is wrong, or the run would go with the job.
    """
    known = tyro.cli(Resume, args=[a for a in line[1:] if a not in ("-h", "--help")], return_unknown_args=True)[0]
    if not known.resume:  # else the options' defaults are those of a run that may not be seen from here
        train_options(line[1:])
    if known.runs.is_absolute() or known.storage:
        return line
    there = local_cluster()
    if there and there.jobs == address:
        return [*line, "--runs", str(known.runs.absolute())]
    raise InputError(
        f"The run would be kept in {known.runs}, a folder of the job that goes with it; name one that all nodes of the "
        "cluster share, such as --runs /shared/runs."
    )


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
