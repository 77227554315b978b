"""What the tests of all chapters share: answers that are right nowhere, and when a verdict says so."""

import math

import numpy as np
import torch


class Odd:
    """An answer that raises whatever one does with it."""

    def __iter__(self):
        raise RuntimeError("no")

    def __float__(self):
        raise RuntimeError("no")


def meta(*shape):
    return torch.ones(shape, device="meta")


NONSENSE = [
    ..., None, "", "text", "12.0", b"1", 1, 1.5, -3, True, math.nan, math.inf, 10**400, 1j, object(), Odd(),
    [], (), {}, {"a": 1}, {1, 2}, [1, "a"], [None, 2.0], ["a", "b", "c", "d"], (math.nan, math.nan),
    int, torch.nn.Linear, print, (print, print), lambda: 1, lambda *_: None, lambda *_: ..., lambda *_: 0,
    lambda *_: 1 / 0, lambda *_: Odd(), lambda *_: meta(3), lambda *_: [meta(4)] * 3, np.array(["a"]), np.ones((3, 4)),
    torch.zeros(0), torch.zeros(3, 3), torch.ones(8).bfloat16(), meta(), meta(3), meta(3, 4), [torch.ones(2), "text"],
    torch.ones(3, 4).to_sparse(), torch.ones(3, 4, dtype=torch.complex64),
]  # fmt: skip


def wrong(verdict):
    """Whether a verdict is that an answer is wrong, with a hint."""
    return not verdict and len(verdict.hint) > 5
