"""Ctrl-C and SIGTERM as a wish: finish the step, save, and end."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWICE_SECONDS = 1.0  # torchrun passes on the Ctrl-C that the terminal has sent to its workers already


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; another one after a second ends at once, by KeyboardInterrupt.

    Its `is_set` is what `train` takes as `stop`. Outside the main thread, where Python hears no signals, nothing
    changes.
    """
    wish = threading.Event()
    asked = 0.0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not wish.is_set():
            asked = time.monotonic()
            wish.set()
        elif time.monotonic() - asked > TWICE_SECONDS:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
