"""Reading an answer, whatever its type."""

from typing import Any

import numpy as np
import torch


def number(answer: Any) -> float | None:
    """The answer as a number; None if it is not one. A tensor or an array of one number counts as that number."""
    try:
        if isinstance(answer, (torch.Tensor, np.ndarray, np.generic)):
            answer = answer.item()
        return float(answer) if isinstance(answer, (int, float)) and not isinstance(answer, bool) else None
    except (RuntimeError, ValueError, OverflowError):  # several numbers, none (on meta), or one too large
        return None


def numbers(answer: Any) -> list[float] | None:
    """The answer as a list of numbers; None if it is no list, tuple, range, or 1-D array or tensor of them."""
    if isinstance(answer, (np.ndarray, torch.Tensor)) and answer.ndim == 0:
        return None
    if not isinstance(answer, (list, tuple, range, np.ndarray, torch.Tensor)):
        return None
    read = [number(item) for item in answer]
    return None if None in read else read  # type: ignore[return-value]
