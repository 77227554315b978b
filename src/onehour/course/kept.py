"""A meter for what autograd keeps: on a GPU the driver counts it, on a CPU this does."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


@dataclass(eq=False)
class Kept:
    """A tensor that the graph of some loss keeps; it dies with that graph."""

    tensor: Tensor


@contextmanager
def kept_by_graphs(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Within it, what it yields counts on each call the bytes that are kept for backward; the weights do not count."""
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Kept:
        kept = Kept(tensor.detach())
        alive.add(kept)
        return kept

    def count() -> int:
        storages = {kept.tensor.untyped_storage().data_ptr(): kept.tensor.untyped_storage() for kept in alive}
        return sum(storage.nbytes() for address, storage in storages.items() if address not in weights)

    with saved_tensors_hooks(keep, lambda kept: kept.tensor):
        yield count
