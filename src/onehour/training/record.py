"""Which samples were trained: noted where they were trained, and proven afterwards from the notes.

audit.jsonl in a run's folder has a row for each attempt (a start from a checkpoint or from the beginning) and after it
a row for each step with a digest of the ids that each worker trained, in the order of the ranks. The ids come out of
the loader together with the samples; they are not worked out a second time. What is worked out a second time, by
`examine`, is which samples each step should have had.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onehour.config import TrainConfig
from onehour.data.loader import IDS
from onehour.data.order import positions_of, sample_at
from onehour.errors import InputError
from onehour.recipe import Batch
from onehour.training.device import Worker
from onehour.training.parallel import gather_objects, of_rank_0


class Record:
    """The notes of one attempt: kept by each worker, gathered by rank 0 when there is a report."""

    def __init__(self, config: TrainConfig, origin: dict[str, Any] | None, num_samples: int, worker: Worker) -> None:
        self.worker = worker
        self.attempt: str = of_rank_0(uuid.uuid4().hex[:8], worker)
        self.on, self.with_ids = config.audit or config.audit_ids, config.audit_ids
        self.noted: list[tuple[int, str, list[int]]] = []
        self.first: list[dict[str, Any]] = [
            {
                "attempt": self.attempt,
                "from": origin and {"attempt": origin.get("attempt"), "step": origin["step"]},
                "num_workers": worker.world_size,
                "seed": config.seed,
                "global_batch_size": config.global_batch_size,
                "num_samples": num_samples,
            }
        ]

    def note(self, step: int, micro_batches: list[Batch]) -> None:
        """Take the ids out of a step's micro-batches and note them."""
        if self.on:
            ids = np.concatenate([batch.pop(IDS).numpy() for batch in micro_batches])
            self.noted.append((step, digest(ids), ids.tolist() if self.with_ids else []))

    def gather(self) -> list[dict[str, Any]]:
        """On rank 0, the rows since the last time, of all workers together."""
        if not self.on:
            return []
        rows, self.first = self.first, []
        for notes in zip(*gather_objects(self.noted, self.worker), strict=True):
            ids = {"ids": [ids for _, _, ids in notes]} if self.with_ids else {}
            rows.append({"step": notes[0][0], "digests": [digest for _, digest, _ in notes]} | ids)
        self.noted = []
        return rows


def digest(ids: NDArray[np.int64]) -> str:
    """A digest of sample ids in their order: BLAKE2b, 16 bytes in hexadecimal."""
    return hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16).hexdigest()


@dataclass
class Attempt:
    """One attempt as it was recorded."""

    facts: dict[str, Any]
    steps: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Account:
    """What the record of a run proves about the history that led to its last step."""

    num_steps: int
    num_attempts: int
    num_trained: int
    """Samples in these steps, over all epochs."""
    num_samples: int
    """Samples of one epoch."""
    done_again: int
    """Steps that were trained and are not in the history: after a fault they were done again."""
    wrong: list[int] = field(default_factory=list)
    """Steps whose workers trained other samples than the order says, or that were not recorded."""
    lost: int = 0
    """Samples of an epoch that were not trained in it."""
    twice: int = 0
    """Samples that were trained once more in the same epoch."""


def read_record(path: Path) -> dict[str, Attempt]:
    """The attempts in an audit.jsonl by their names, in the order in which they began.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(f"There is no record {path}; the run has to be trained with --audit.")
    attempts: dict[str, Attempt] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # cut off when the worker that wrote it was killed
            continue
        if "attempt" in row:
            current = attempts.setdefault(row["attempt"], Attempt(row))
        else:
            current.steps[row["step"]] = row
    return attempts


def history(attempts: dict[str, Attempt], attempt: str, step: int) -> Iterator[tuple[int, Attempt | None]]:
    """The steps that led to the weights after `step` of `attempt`, backwards, each with the attempt that trained it."""
    while step > 0:
        current = attempts.get(attempt)
        origin = current.facts["from"] if current else None
        first = origin["step"] if origin else 0
        for number in range(step, first, -1):
            yield number, current
        attempt, step = (origin["attempt"], first) if origin else ("", first)


def examine(attempts: dict[str, Attempt], attempt: str, last: int) -> Account:
    """Compare what was recorded on the way to step `last` of `attempt` with the order that the samples should have.

    Each step's digests are compared with those of the ids that the order gives; the ids that stood the comparison are
    counted, epoch by epoch.
    """
    facts = next(reversed(attempts.values())).facts
    size, num_samples, seed = facts["global_batch_size"], facts["num_samples"], facts["seed"]
    done = sum(len(each.steps) for each in attempts.values())
    account = Account(last, len(attempts), last * size, num_samples, done)
    counts: dict[int, NDArray[np.int64]] = {}  # of the epochs that are not over yet
    for step, trained_by in reversed(list(history(attempts, attempt, last))):
        row = trained_by.steps.get(step) if trained_by else None
        account.done_again -= row is not None
        ids = ids_of(step, row, facts) if row else None
        if ids is None:
            account.wrong.append(step)
        epochs = positions_of(step - 1, size) // num_samples
        for epoch in np.unique(epochs).tolist():
            trained = np.array([], np.int64) if ids is None else ids[epochs == epoch]
            counts[epoch] = counts.get(epoch, 0) + np.bincount(trained, minlength=num_samples)
        for epoch in [epoch for epoch in counts if step == last or (epoch + 1) * num_samples <= step * size]:
            missing = expected_counts(epoch, last * size, num_samples, seed) - counts.pop(epoch)
            account.lost += int(missing.clip(min=0).sum())
            account.twice += int(-missing.clip(max=0).sum())
    return account


def ids_of(step: int, row: dict[str, Any], facts: dict[str, Any]) -> NDArray[np.int64] | None:
    """The ids that were trained in a step, in the order of the ranks; None if the digests are not those of any order.

    Recorded ids count as they are. Without them, the ids that should have been trained count if their digests agree.
    """
    if "ids" in row:
        trained = [np.array(ids, np.int64) for ids in row["ids"]]
    else:
        ranks, size = len(row["digests"]), facts["global_batch_size"]
        shares = [positions_of(step - 1, size, rank, ranks) for rank in range(ranks)]
        trained = [sample_at(share, facts["num_samples"], facts["seed"]) for share in shares]
    ids = np.concatenate(trained)
    agree = [digest(share) for share in trained] == row["digests"] and len(ids) == facts["global_batch_size"]
    return ids if agree else None


def expected_counts(epoch: int, total: int, num_samples: int, seed: int) -> NDArray[np.int64]:
    """How often each sample comes in an epoch of the first `total` positions: 1, or 0 if the epoch is cut: (num_samples,)."""
    positions = np.arange(epoch * num_samples, min((epoch + 1) * num_samples, total))
    return np.bincount(sample_at(positions, num_samples, seed), minlength=num_samples)
