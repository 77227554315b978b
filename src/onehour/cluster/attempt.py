"""One attempt at a training: TorchTrainer starts the workers, and this process follows what they write."""

import json
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
# An actor that asks whether a node is to be taken away; launch.py asks itself.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
# How long Ray waits for the workers' places. They were free a moment ago, so what keeps them is a node that is gone.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")

import ray
from ray._private import state
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, get_env_vars_to_propagate
from ray.train.v2._internal.execution import controller
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from onehour.cluster.desk import Away
from onehour.cluster.preflight import cpus_of_each, nodes
from onehour.cluster.worker import train_worker
from onehour.config import ScaleConfig, TrainConfig, seconds
from onehour.recipe import Recipe
from onehour.training.run import Run

Work = Callable[[dict[str, Any]], None]

LOOK = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
LOOK_ASKED_FOR = os.environ.get(LOOK)
FOLLOW_SECONDS = 0.05
ASK_SECONDS = 1.0
# launch.py begins again itself, from a checkpoint that it has examined. Left to itself, Ray would for ever.
NO_RETRIES = FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0)  # type: ignore[call-arg]


class Trainer(TorchTrainer):
    """TorchTrainer without three actors that have nothing to do here.

    One serves Ray datasets, the second frees the workers' places after a controller that was killed, and the third asks
    the autoscaler for nodes: preflight.py does both. Each is a Python process, whose start takes 2 seconds of a core and
    whose idling takes 1 % of one, and Ray's controller waits for the third before it starts the workers.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, DatasetsCallback | PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        """As Ray's own, with a controller and a policy of ours; Ctrl-C is heard elsewhere."""
        arguments["scaling_policy"] = AsManyAsAskedFor(arguments["scaling_policy"].scaling_config)
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}  # type: ignore[attr-defined]
        actor: Any = ray.remote(
            num_cpus=0, label_selector=here, runtime_env={"env_vars": get_env_vars_to_propagate()}
        )  # fmt: skip
        running = actor(controller.TrainController if LOOK_ASKED_FOR else TrainController).remote(**arguments)
        ray.get(running.run.remote())
        return ray.get(running.get_result.remote())


class AsManyAsAskedFor(FixedScalingPolicy):
    """Ray's policy for a fixed number of workers, without a word to the actor that asks the autoscaler."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class TrainController(controller.TrainController):
    """Ray's controller, which looks after its workers more rarely the longer they have trained.

    A look wakes each worker: five of them a second cost two workers on two cores 1 to 3 % (bench/history.md). But the end of
    a training waits for two, one for the last report: for a twentieth of its time, and for 2 seconds at most.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.least, self.began = self._health_check_interval_s, 0.0

    async def _poll_workers(self) -> Any:
        self.began = self.began or time.monotonic()
        self._health_check_interval_s = longer(self.least, time.monotonic() - self.began)
        return await super()._poll_workers()


def look_seconds(workers: int) -> float:
    """How long Ray's controller waits at first before it looks after its workers again, if nobody asked for anything else.

    A look takes a third of a millisecond of its core for each worker (bench/growth.py), so where they are many it waits
    longer: for never more than a fifth of the core.
    """
    return max(0.2, workers / 600)


def longer(least: float, since: float) -> float:
    """How long it waits after so many seconds: a fortieth of them, but no less than at first, and 1 second at most."""
    return max(least, min(since / 40, 1.0))


def kill_controller() -> None:
    """Kill the controller that this program has started, if it is there yet."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    worker: Any = ray._private.worker.global_worker
    for number, actor in state.state.actor_table(None, job, "ALIVE").items():
        if actor["ActorClassName"] == TrainController.__name__:  # and Ray's, which it has its name from
            worker.core_worker.kill_actor(ray.ActorID.from_hex(number), True)


def job_of(
    recipe: Recipe, config: TrainConfig, scale: ScaleConfig, run: Run, start: Path | None, away: Away | None = None
) -> dict[str, Any]:
    """What each worker is told; see `train_worker`."""
    return {
        "recipe": recipe.describe(),
        "config": asdict(config),
        "run": str(run.folder),
        "start": str(start) if start else None,
        "hang_seconds": seconds(scale.hang_timeout),
        "storage": scale.storage,
        "profile": scale.profile,
        "away": away,
        "data": run.data(scale.storage),
    }


class Attempt:
    """One TorchTrainer.fit, in a thread, so that this thread can follow what the workers write."""

    def __init__(
        self, recipe: Recipe, config: TrainConfig, scale: ScaleConfig, workers: int, run: Run, start: Path | None,
        away: Away | None = None, work: Work | None = None,
    ) -> None:  # fmt: skip
        for old in (run.failure_file, run.stop_file, *run.stacks.glob("*.txt")):
            old.unlink(missing_ok=True)
        # Ray's own note of where it was. Without it Ray starts anew; where to go on, the checkpoints say themselves.
        (run.folder / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME).unlink(missing_ok=True)
        self.run = run
        self.error: Exception | None = None
        self.ended = threading.Event()
        cpus = cpus_of_each(scale, workers, nodes())
        os.environ[LOOK] = LOOK_ASKED_FOR or str(look_seconds(workers))  # read when the trainer starts its controller
        self.trainer = Trainer(
            work or train_worker,
            train_loop_config=job_of(recipe, config, scale, run, start, away),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=scale.gpu,
                resources_per_worker={"CPU": cpus} | ({"GPU": 1} if scale.gpu else {}),
            ),
            run_config=RunConfig(name=run.name, storage_path=str(run.folder.parent), failure_config=NO_RETRIES),
        )

    def fit(self) -> None:
        """Run the trainer; keep its error for the thread that follows."""
        try:
            self.trainer.fit()
        except Exception as error:  # any of them: an exception that ends this thread unseen would look like success
            self.error = error
        finally:
            self.ended.set()

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """`fit` in a thread, which ends with the block: where nobody follows it any more, its controller is killed.

        Ray kills the workers then. As long as the thread speaks with Ray, ray.shutdown would take this process down
        without a word, and with it the notebook that this may be. The event tells when it has ended: is_alive() does
        not, once Ctrl-C has interrupted a join (seen in Python 3.11).
        """
        threading.Thread(target=self.fit, daemon=True).start()
        try:
            yield
        finally:
            while not self.ended.wait(FOLLOW_SECONDS):
                kill_controller()

    def follow(self, reason_to_stop: Callable[[], str | None]) -> Generator[dict[str, Any], None, bool]:
        """The rows that appear in metrics.jsonl until the trainer ends; returns whether it ended because it was asked to.

        About once a second, from the first row on, the reason is asked for; with one, the workers are asked to save and
        end. Before that row they may not have taken their places yet, which would look like room for more.
        """
        asked, reason, row = time.monotonic(), None, dict[str, Any]()
        with self.run.metrics_file.open("a+") as file, self.fitting():  # from its end on
            running, rest = True, ""
            while running:
                running = not self.ended.is_set()  # asked before reading: what was written before the end is read, too
                *lines, rest = (rest + file.read()).split("\n")
                for line in filter(None, lines):
                    row = json.loads(line)
                    yield row
                if running and row and not reason and time.monotonic() - asked > ASK_SECONDS:
                    asked, reason = time.monotonic(), reason_to_stop()
                    if reason:
                        yield {"warning": reason}
                        self.run.stop_file.touch()
                self.ended.wait(FOLLOW_SECONDS)
        return "interrupted" in row
