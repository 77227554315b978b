"""Jobs on a Ray cluster, as `ray job` has them: with one sentence for what goes wrong, and the job's own exit code."""

import asyncio
import logging
import os
import platform
import time
from datetime import datetime
from typing import Any

import ray
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from onehour.cluster.connect import join
from onehour.cluster.local import local_cluster
from onehour.cluster.ports import answers
from onehour.errors import InputError, TrainingError

OLDEST_RAY = (2, 60)  # as in pyproject.toml
LOOK_SECONDS = 0.5
TALKATIVE = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
STOPPED = 130  # what a training ends with that was asked to stop


def job_client(address: str) -> JobSubmissionClient:
    """A client of the job server at this URL.

    Raises:
        InputError: none answers there, or it wants another token.
    """
    if not address.startswith(("http://", "https://")):
        raise InputError(f"{address} is no job server; its address begins with http://, such as http://HEAD:8265.")
    if not answers(address):
        raise InputError(f"Nothing answers at {address}; is the cluster up, and the tunnel to it open?")
    if (cluster := local_cluster()) and cluster.jobs == address:
        join(cluster)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # these would count for more than what Ray is called with
        os.environ.pop(name, None)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise InputError(
            f"The cluster at {address} did not get the token that it wants; set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN_PATH to the file that the token is in."
        ) from error
    except Exception as error:  # whatever listens there may say anything
        raise InputError(f"What answers at {address} is no job server of Ray: {first_line(error)}") from error


def check_versions(client: JobSubmissionClient) -> list[str]:
    """Sentences about a cluster that has another Ray or Python than this machine.

    Raises:
        InputError: its Ray is too old.
    """
    there = client._do_request("GET", "/api/v0/cluster_metadata").json()["data"]
    oldest = ".".join(map(str, OLDEST_RAY))
    if tuple(map(int, there["rayVersion"].split(".")[:2])) < OLDEST_RAY:
        raise InputError(f"The cluster has Ray {there['rayVersion']}, and onehour needs {oldest} or newer there.")
    pairs = (
        ("Ray", there["rayVersion"], ray.__version__),
        ("Python", there["pythonVersion"], platform.python_version()),
    )
    return [f"The cluster has {name} {theirs}, this machine {ours}." for name, theirs, ours in pairs if theirs != ours]


def send(client: JobSubmissionClient, entrypoint: str, environment: dict[str, Any]) -> str:
    """Send the folder and the command to the cluster; returns the id of the job.

    Raises:
        InputError: the cluster does not take it.
    """
    try:
        return client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # a file, the network, the server, the environment
        raise InputError(f"The job cannot be submitted: {first_line(error)}") from error


def follow_to_end(client: JobSubmissionClient, job: str) -> int:
    """Print what the job says, from its beginning to its end; returns its exit code.

    Raises:
        InputError: there is no such job.
        TrainingError: the job could not start, or the connection to it was lost.
    """
    details(client, job)
    try:
        asyncio.run(print_logs(client, job))
    except (ClientError, RuntimeError) as error:
        raise TrainingError(
            f"The connection to the job {job} was lost ({first_line(error)}); it may go on: onehour jobs logs {job}"
        ) from error
    return exit_code(at_its_end(client, job))


async def print_logs(client: JobSubmissionClient, job: str) -> None:
    """Print what the job says as it comes."""
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)


def exit_code(job: JobDetails) -> int:
    """The exit code of a job that has ended. `ray job submit` knows 0 and 1 only.

    Raises:
        TrainingError: it never came to its command.
    """
    if job.status == JobStatus.STOPPED:
        return STOPPED
    if job.driver_exit_code is None:
        raise TrainingError(f"The job {job.submission_id} could not run: {job.message}")
    return job.driver_exit_code if job.driver_exit_code >= 0 else 128 - job.driver_exit_code


def stop(client: JobSubmissionClient, job: str) -> JobDetails:
    """Ask the job to stop and wait for its end; a training saves first.

    Raises:
        InputError: there is no such job.
    """
    details(client, job)
    client.stop_job(job)
    return at_its_end(client, job)


def at_its_end(client: JobSubmissionClient, job: str) -> JobDetails:
    """What there is to know of a job when it has ended."""
    while not (info := details(client, job)).status.is_terminal():
        time.sleep(LOOK_SECONDS)
    return info


def details(client: JobSubmissionClient, job: str) -> JobDetails:
    """What there is to know of a job now.

    Raises:
        InputError: there is no such job.
    """
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        if "404" not in str(error):
            raise
        raise InputError(f"There is no job {job}; see those there are by: onehour jobs") from error


def job_lines(client: JobSubmissionClient) -> list[str]:
    """A line for each job that the cluster has had, the oldest first."""
    return [job_line(job) for job in sorted(client.list_jobs(), key=lambda job: job.start_time or 0)]


def job_line(job: JobDetails) -> str:
    """A job in a line: its id, how it is, since when, its command."""
    began = datetime.fromtimestamp((job.start_time or 0) / 1000)
    command = job.entrypoint.replace("python -m onehour", "onehour")
    return f"{job.submission_id or job.job_id}  {job.status:9}  {began:%d %b %H:%M}  {command}"


def first_line(error: Exception) -> str:
    """What an exception says, without what follows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
