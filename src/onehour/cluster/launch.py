"""A run on Ray: attempts until one ends well, each from the newest good checkpoint."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from ray._private.worker import get_dashboard_url
from ray.exceptions import OutOfMemoryError, RayActorError

from onehour.cluster.address import cluster_address
from onehour.cluster.connect import ray_cluster
from onehour.cluster.nodes import node_ids
from onehour.cluster.preflight import nodes, nodes_to_leave, room_to_grow, wait_for_room
from onehour.config import ScaleConfig, TrainConfig, seconds
from onehour.errors import DivergedError, InputError, TrainingError
from onehour.recipe import Recipe
from onehour.training.interrupt import stop_requests
from onehour.training.keep import not_kept
from onehour.training.plan import usable_sizes
from onehour.training.run import Run

if TYPE_CHECKING:
    from onehour.cluster.attempt import Work

BYTES_OF_A_NOTE = 1e5


def train_on_ray(
    recipe: Recipe, config: TrainConfig, scale: ScaleConfig, run: Run, checkpoint_bytes: float = 0,
    work: "Work | None" = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Train `recipe` in `run` by the workers that `scale` asks for; yields the rows of metrics.jsonl as they appear.

    A row {"warning": ...} tells of a fault, of what is waited for, or what to know about the nodes, each of which has to
    have room for checkpoints of `checkpoint_bytes`. After a fault new workers go on from the newest good checkpoint, up
    to `scale.max_failures` times; an exception that a worker raised twice is not tried again. Where `scale.workers` is a
    range, each attempt has as many workers as there is room for, and makes way for a larger one when nodes have come.
    Ctrl-C or SIGTERM ends the last attempt with a row that has "interrupted"; a second one, or a `break`, ends at once.
    The workers do `work`, which is train_worker unless said otherwise.

    Raises:
        InputError: the cluster cannot hold the workers, or they find the configuration wrong.
        TrainingError: the training cannot go on.
    """
    sizes = usable_sizes(config, scale)
    address = cluster_address(scale.address)
    with ray_cluster(address, dashboard=scale.dashboard):
        if scale.dashboard:
            token = os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")  # where Ray writes one if there is none
            yield {"dashboard": f"http://{get_dashboard_url()}, with the token in {token}, until the training ends"}
        from onehour.cluster.attempt import Attempt  # ray_cluster has a thread import what this one needs
        from onehour.cluster.desk import bring_back, meet_new_nodes

        patience = seconds(scale.wait or "0s")
        room = checkpoint_bytes * ((config.keep or 1) + 1)
        known, away = set() if address or len(nodes()) > 1 else node_ids(), None
        before: str | None = None
        num_failures = 0
        while True:
            workers = yield from wait_for_room(scale, sizes, patience)
            away = yield from meet_new_nodes(run, config, scale.storage, room, known, away)
            start, warnings = run.newest_checkpoint()
            yield from ({"warning": warning} for warning in warnings)
            attempt = Attempt(recipe, config, scale, workers, run, start, away, work)
            with stop_requests() as wish:
                interrupted = yield from attempt.follow(partial(reason_to_stop, wish, scale, sizes, workers))
            if away and scale.storage:
                yield from bring_back(run, scale.storage, attempt.error)
            if attempt.error is None and (wish.is_set() or not interrupted):
                return
            if wish.is_set():
                raise KeyboardInterrupt
            if attempt.error is not None:
                num_failures += 1
                before = diagnose(attempt.error, run, before, scale.max_failures - num_failures, scale.storage)
                yield {"warning": f"{before}; going on from the newest checkpoint."}
            patience = seconds(scale.wait or "10m")


def reason_to_stop(wish: Event, scale: ScaleConfig, sizes: Sequence[int], workers: int) -> str | None:
    """Why the workers should save and end now, or None: somebody asked for it, or other nodes are to be used."""
    if wish.is_set():
        return "Asked to stop: the workers finish their step and save."
    if leaving := nodes_to_leave():
        return f"The node {', '.join(leaving)} is about to be taken away: the workers save and go on without it."
    if workers < max(sizes) and (more := room_to_grow(scale, sizes, workers)) > workers:
        return f"There is room for {more} workers now: the training is saved and goes on with them."
    return None


def diagnose(error: Exception, run: Run, before: str | None, num_left: int, storage: str | None = None) -> str:
    """What to tell about a failed attempt that is worth another one; `before` is what was told about the last.

    Raises:
        InputError, TrainingError: the worker said so, the same exception came twice, or there is no attempt left.
    """
    if shutil.disk_usage(run.folder).free < BYTES_OF_A_NOTE:  # the worker could not write down why it stopped
        raise TrainingError(not_kept(run, os.strerror(errno.ENOSPC), storage)) from error
    if stacks := stacks_of(run):
        told = f"No step was done in time (--hang-timeout); what the workers were at:\n{stacks}"
    elif not run.failure_file.is_file():
        told = how_it_died(error)
    else:
        failure = json.loads(run.failure_file.read_text())
        for kind in (InputError, TrainingError, DivergedError):
            if failure["kind"] == kind.__name__:
                raise kind(failure["message"])
        told = f"A worker stopped with {failure['kind']}: {failure['message'].splitlines()[0]}"
        if told == before or num_left < 0:
            raise TrainingError(f"{failure['traceback']}\n{told}") from error
    if num_left < 0:
        raise TrainingError(f"{told}; no attempt is left; go on with: {run.resume_command(storage)}") from error
    return told


def how_it_died(error: Exception) -> str:
    """Who died, of an attempt in which no worker has said why it ended; and why, as far as Ray knows.

    Ray watches the memory of each node, and ends workers before the system would.
    """
    failures = getattr(error, "worker_failures", {}).values()
    causes = [error, *(getattr(failure, "health_check_failure", failure) for failure in failures)]
    if any(isinstance(cause, OutOfMemoryError) for cause in causes):
        return (
            "A worker was killed because its node ran out of memory (place fewer on a node by a higher --cpus-per-worker, "
            "or try a smaller --micro-batch-size)"
        )
    if "_setup_torch_process_group" in str(error):
        return (
            "The workers could not connect to each other (where the name of a host stands for 127.0.0.1 there, set "
            "GLOO_SOCKET_IFNAME to its network interface before ray start)"
        )
    return "Ray's controller died" if isinstance(error, RayActorError) else "A worker died"


def stacks_of(run: Run) -> str:
    """What workers that hung have written, each rank's stack under its name; empty if none did."""
    written = {path.stem: path.read_text() for path in sorted(run.stacks.glob("*.txt"))}
    return "\n".join(f"--- {name}\n{stack.strip()}" for name, stack in written.items() if stack)
