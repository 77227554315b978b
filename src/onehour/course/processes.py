"""What chapter 9 runs in other processes, and how it finds them."""

import os

from ray._private import state


def process_id() -> int:
    """The number of the process that runs this."""
    return os.getpid()


class Tally:
    """Adds up what it is given. As an actor it does so in a process of its own, and remembers."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, number: int) -> int:
        """Add a number; returns the total so far."""
        self.total += number
        return self.total


def actors() -> dict[int, str]:
    """The actors of this Ray that are alive: process number -> class."""
    return {each["Pid"]: each["ActorClassName"] for each in state.actors().values() if each["State"] == "ALIVE"}


def training_workers() -> list[int]:
    """The process numbers of the workers that train now."""
    return sorted(process for process, kind in actors().items() if kind == "RayTrainWorker")
