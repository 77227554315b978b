"""For workers on nodes that do not see the run's folder: what they would write there, they hand in here.

The desk is an actor on the node of the driver, which follows the folder as ever. Checkpoints go by the storage.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from onehour.cluster.nodes import check_nodes, node_ids, on_every_node
from onehour.config import TrainConfig
from onehour.errors import InputError
from onehour.training.keep import append
from onehour.training.run import Run
from onehour.training.shared import publish, take
from onehour.training.storage import level


class Desk:
    """The run's folder, for those who do not see it."""

    def __init__(self, folder: str) -> None:
        self.run = Run(Path(folder))

    def append(self, row: dict[str, Any], trained: list[dict[str, Any]]) -> None:
        """A row of metrics.jsonl, and those of audit.jsonl."""
        append(self.run.metrics_file, [row])
        append(self.run.audit_file, trained)

    def note_failure(self, failure: dict[str, str]) -> None:
        """Why a worker stopped."""
        self.run.note_failure(failure)

    def stop(self) -> bool:
        """Whether the workers are asked to stop."""
        return self.run.stop_file.exists()


@dataclass(frozen=True)
class Away:
    """The nodes that do not see the run's folder, by id, and the desk for their workers."""

    nodes: set[str]
    desk: Any


def meet_new_nodes(
    run: Run, config: TrainConfig, storage: str | None, room: float, known: set[str], away: Away | None
) -> Generator[dict[str, Any], None, Away | None]:
    """Examine the nodes if there are some that are not `known` yet, add them there, and put the data where they find them.

    Yields warnings that tell what to know about the nodes.

    Raises:
        InputError: some of them would not do.
    """
    if known >= (there := node_ids()):
        return away
    told, nodes = check_nodes(run, room, storage)
    known |= there
    yield from ({"warning": sentence} for sentence in told)
    data = run.data(storage)
    publish(take(**data), data["storage"])
    if not nodes:
        return None
    assert storage  # or check_nodes had refused them
    if config.strategy == "fsdp":
        raise InputError(
            f"--strategy fsdp was asked for, whose workers write into one folder, and {len(nodes)} of {len(there)} nodes do not "
            f"see {run.folder}; choose a folder that all nodes share by --runs, or another strategy."
        )
    yield from ({"warning": sentence} for sentence in level(run, storage))
    return Away(nodes, away.desk if away else open_desk(run))


def bring_back(run: Run, storage: str, error: Exception | None) -> Iterator[dict[str, Any]]:
    """After an attempt: bring its last checkpoint here, and where workers stopped without a word, their stacks."""
    if error and not run.failure_file.is_file():
        collect_stacks(run)
    yield from ({"warning": sentence} for sentence in level(run, storage))


def open_desk(run: Run) -> Any:
    """Start the actor on this node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Desk).options(scheduling_strategy=here).remote(str(run.folder))


def collect_stacks(run: Run) -> None:
    """Bring the stacks that workers have written on all nodes into the run's folder here."""
    run.stacks.mkdir(exist_ok=True)
    for _, found in on_every_node(take_stacks, str(run.stacks)):
        for name, stack in found.items() if isinstance(found, dict) else ():
            (run.stacks / name).write_text(stack)


def take_stacks(folder: str) -> dict[str, str]:
    """The stacks that workers have written on this node; they are removed here."""
    found = {path.name: path.read_text() for path in Path(folder).glob("*.txt")}
    for name in found:
        (Path(folder) / name).unlink()
    return found
