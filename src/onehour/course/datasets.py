"""Datasets of the chapter on data that worker processes open: what is pickled for another process lives here."""

import time
from dataclasses import dataclass
from typing import NamedTuple

from torch.utils.data import Dataset, get_worker_info


class Stretch(NamedTuple):
    """A stretch of time in which one process had to do with one batch."""

    batch: int
    process: int
    """The number of the worker process, or -1 for the process that trains."""
    began: float
    ended: float
    training: bool = False
    """Whether the batch was trained on; otherwise it was loaded."""

    def since(self, start: float) -> "Stretch":
        """The same stretch, counted from `start`."""
        return self._replace(began=self.began - start, ended=self.ended - start)


@dataclass(frozen=True)
class SlowBatches(Dataset[Stretch]):
    """Batches that take a while to come, as from a slow disk. They hold nothing but who loaded them, and when."""

    num_batches: int
    seconds: float

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Stretch:
        began = time.perf_counter()
        time.sleep(self.seconds)
        worker = get_worker_info()
        return Stretch(index, worker.id if worker else -1, began, time.perf_counter())
