"""How a step grows with the number of workers, by arithmetic: what is divided, what is not, and what is exchanged."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onehour.training.parts import Parts


def step_seconds(
    workers: int, compute: float, serial: float = 0.0, gradient_bytes: float = 0.0, bandwidth: float = 1.0
) -> float:
    """The time of a step at a fixed global batch.

    `compute` seconds are divided by the workers, `serial` seconds are not, and a ring all-reduce sends
    2 (n - 1) / n times the gradients over each worker's link of `bandwidth` bytes per second. Nothing overlaps.
    """
    exchanged = 2 * (workers - 1) / workers * gradient_bytes
    return compute / workers + serial + exchanged / bandwidth


def speedup(workers: int, **times: float) -> float:
    """How many times faster a step of `workers` workers is than that of one; `times` as in `step_seconds`."""
    return step_seconds(1, **times) / step_seconds(workers, **times)


@dataclass(frozen=True)
class Model:
    """A step as a function of the number of workers: Amdahl's law and a ring all-reduce.

    Amdahl 1967, "Validity of the single processor approach", gives compute / n + serial. The ring (Patarasuk and Yuan
    2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", section 3) has 2 (n - 1) rounds, each
    of which takes `latency` seconds and sends 1 / n of the gradients.
    """

    compute: float
    """Seconds of the data and of forward and backward, of one worker with the share that `weak` tells."""
    serial: float
    """Seconds of what no number of workers divides."""
    gradient_bytes: float
    seconds_per_byte: float
    """Seconds that a worker takes to send a byte; 0 where nothing was exchanged."""
    latency: float
    """Seconds of a round, however little it sends."""
    weak: bool
    """Whether the global batch grows with the workers: then each computes as much as one does alone."""

    def seconds(self, workers: int) -> float:
        """The time of a step of `workers` workers that have cores and links of their own."""
        compute = self.compute * workers if self.weak else self.compute
        bandwidth = 1 / self.seconds_per_byte if self.seconds_per_byte else math.inf
        rounds = 2 * (workers - 1)
        return step_seconds(workers, compute, self.serial, self.gradient_bytes, bandwidth) + rounds * self.latency

    def speedup(self, workers: int) -> float:
        """How many times as many samples per second as one worker."""
        return self.seconds(1) / self.seconds(workers) * (workers if self.weak else 1)

    def amdahl(self) -> "Model":
        """The same without the exchange: what Amdahl's law alone says."""
        return replace(self, seconds_per_byte=0.0, latency=0.0)


def fit(measured: Mapping[int, Parts], gradient_bytes: float, weak: bool, rest: float = 0.0) -> Model:
    """The model of these measurements, by number of workers.

    What one worker computes is taken from the smallest number, and so is what is not divided: the update, and the `rest`
    of a step of the training, in seconds, which is none of the parts. Latency and bandwidth come from all numbers that
    exchanged anything.
    """
    fewest = min(measured)
    first = measured[fewest]
    alone = (first.data + first.compute) * (1 if weak else fewest)
    latency, per_byte = fit_ring({n: parts for n, parts in measured.items() if n > 1}, gradient_bytes)
    return Model(alone, first.update + max(0.0, rest), gradient_bytes, per_byte, latency, weak)


def fit_ring(measured: Mapping[int, Parts], gradient_bytes: float) -> tuple[float, float]:
    """Seconds a round and seconds per byte of a ring, by least squares; neither is negative.

    Each number n of workers gives two equations: 2 (n - 1) rounds that send next to nothing take as long as a message,
    and the same rounds with 2 (n - 1) / n times the gradients as long as the exchange.
    """
    if not measured:
        return 0.0, 0.0
    rounds = np.array([2 * (n - 1) for n in measured] * 2, dtype=float)
    sent = np.array([0.0 for _ in measured] + [2 * (n - 1) / n * gradient_bytes for n in measured])
    seconds = np.array([parts.message for parts in measured.values()] + [parts.exchange for parts in measured.values()])
    latency, per_byte = np.linalg.lstsq(np.stack([rounds, sent], axis=1), seconds, rcond=None)[0]
    if latency < 0:
        return 0.0, float(sent @ seconds / (sent @ sent))
    if per_byte < 0:
        return float(rounds @ seconds / (rounds @ rounds)), 0.0
    return float(latency), float(per_byte)


def largest_difference(losses: Mapping[int, Sequence[float]]) -> float:
    """By how much the losses of the same steps differ, relatively, over all numbers of workers."""
    first, *others = losses.values()
    pairs = ((ours, theirs) for other in others for ours, theirs in zip(first, other, strict=True) if ours != theirs)
    return max((abs(ours - theirs) / max(abs(ours), abs(theirs)) for ours, theirs in pairs), default=0.0)
