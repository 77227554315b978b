"""When to stop: a pure function of the held-out losses so far."""

from collections.abc import Sequence


def should_stop(losses: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` evaluations were all no better than the best one before them."""
    if patience is None or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])
