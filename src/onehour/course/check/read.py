"""Reading an answer, whatever it is: nothing here raises. All chapters read with these."""

import math
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from onehour.course.check.verdict import Verdict, not_yet


def call(function: Any, *arguments: Any) -> Any:
    """What a function of the reader returns; the exception if it raises one, None if it is no function."""
    if not callable(function):
        return None
    try:
        return function(*arguments)
    except Exception as error:  # whatever a reader's code may raise is a wrong answer, and the check says so
        return error


def raised(error: Exception) -> Verdict:
    """The verdict on an answer that raises."""
    return not_yet(f"it raises {short(error)}", f"它抛出了 {short(error)}")


def number(answer: Any) -> float | None:
    """A finite number, of Python, of NumPy, or in a tensor or an array of one; None for anything else."""
    if isinstance(answer, Tensor | np.ndarray | np.generic):
        answer = call(answer.item)
    if isinstance(answer, bool | str | bytes | complex):
        return None
    value = call(float, answer)
    return value if isinstance(value, float) and math.isfinite(value) else None


def numbers(answer: Any) -> list[float] | None:
    """The numbers of a list, tuple, range, or 1-D array or tensor; None for anything else."""
    if not isinstance(answer, list | tuple | range | np.ndarray | Tensor):
        return None
    items = call(list, answer)
    if not isinstance(items, list):
        return None
    read = [number(item) for item in items]
    return None if None in read else read  # type: ignore[return-value]


def whole_numbers(answer: Any) -> list[int] | None:
    """The same for whole numbers: None if one of them is not whole."""
    read = numbers(answer)
    return [int(value) for value in read] if read is not None and all(map(float.is_integer, read)) else None


def has_numbers(answer: Any) -> TypeGuard[Tensor]:
    """Whether `answer` is a tensor of real numbers that lie one beside the other in some memory."""
    if not isinstance(answer, Tensor) or answer.is_nested or answer.is_meta or answer.is_quantized:
        return False
    return answer.layout == torch.strided and not answer.is_complex()


def no_tensor(given: Any) -> Verdict:
    """The verdict on a function whose result has no numbers to look at."""
    if isinstance(given, Exception):
        return raised(given)
    return not_yet("the answer should be a function that returns a tensor.", "答案应当是一个返回张量的函数。")


def is_near(answer: Any, right: float, tolerance: float = 1e-6) -> bool:
    """Whether `answer` is this number, up to `tolerance`: a part of it, or of 1 if it is smaller than 1."""
    value = number(answer)
    return value is not None and abs(value - right) <= tolerance * max(1.0, abs(right))


def is_close(answer: Any, right: Tensor) -> bool:
    """Whether `answer`, a tensor or what makes one, has the shape of `right` and its values, up to float32's rounding."""
    given = answer if isinstance(answer, Tensor) else call(torch.as_tensor, answer)
    if not has_numbers(given) or given.shape != right.shape:
        return False
    return torch.allclose(given.detach().cpu().double(), right.detach().double(), rtol=1e-4, atol=1e-5)


def short(given: Any, value: bool = False) -> str:
    """The kind of what was given, and with `value` what it is; of an exception both. In few characters."""
    text = type(given).__name__
    if value or isinstance(given, Exception):
        text += f": {call(str, given)}"
    return text if len(text) < 200 else text[:197] + "..."
