"""Chapter 8: its checks tell right from wrong, its ring adds up everything once, and its ways train alike."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from onehour.course import check, ddp, fsdp, pictures
from onehour.course.pictures.ring import simulate
from onehour.data.order import positions_of

from .answers import wrong


@pytest.fixture
def alone(tmp_path):
    """A process group of this process only."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_gigabytes_of_each_gpu():
    for right in (26, 26.0, 13 * 16 / 8, torch.tensor(26.0), np.float32(26)):
        assert check.many_gpus_1(right)
    for answer, hint in [(208, "all of it"), (26e9, "bytes"), (6.5, "one parameter"), ("26", "one number")]:
        assert wrong(check.many_gpus_1(answer)) and hint in check.many_gpus_1(answer).hint


def test_positions_of_a_rank():
    right = positions_of(5, 32, 2, 4)
    for answer in (right, right.tolist(), tuple(right), range(176, 184), torch.from_numpy(right)):
        assert check.many_gpus_2(answer)
    for answer, hint in [
        (range(176, 183), "How many samples"), (range(183, 175, -1), "another order"), (range(144, 152), "count from 0"),
        (176, "a list"),
    ]:  # fmt: skip
        assert wrong(check.many_gpus_2(answer)) and hint in check.many_gpus_2(answer).hint


def test_accuracy_over_unequal_parts():
    for right in (149 / 260, 0.573, 0.5731, torch.tensor(149 / 260)):
        assert check.many_gpus_3(right)
    for answer, hint in [(2.2 / 3, "mean of the means"), (0.5, "How many samples"), ([0.573, 1], "one number")]:
        assert wrong(check.many_gpus_3(answer)) and hint in check.many_gpus_3(answer).hint


def test_a_reduce_scatter():
    def by_slices(tensors):
        size = len(tensors[0]) // len(tensors)
        return [sum(t[rank * size : (rank + 1) * size] for t in tensors) for rank in range(len(tensors))]

    assert check.many_gpus_4(by_slices)
    assert check.many_gpus_4(lambda tensors: sum(tensors).view(len(tensors), -1))
    assert check.many_gpus_4(lambda tensors: sum(tensors).chunk(len(tensors)))
    for answer, hint in [
        (lambda tensors: [sum(tensors)] * len(tensors), "all-reduce"),
        (lambda tensors: [part / len(tensors) for part in by_slices(tensors)], "mean"),
        (lambda tensors: by_slices(tensors)[::-1], "order of the ranks"),
        (sum, "one 1-D tensor"),
        (lambda tensors: sum(tensors).split(5), "one part in N"),
        (lambda tensors: tensors[9], "IndexError"),
        (torch.ones(4), "a function"),
    ]:
        assert wrong(check.many_gpus_4(answer)) and hint in check.many_gpus_4(answer).hint


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 7])
def test_the_ring_adds_up_everything_once_and_sends_one_chunk_a_step(num_workers):
    history = simulate(num_workers)
    assert len(history) == 1 + 2 * (num_workers - 1)
    everybody = frozenset(range(num_workers))
    half, _ = history[num_workers - 1]
    assert sorted(chunk for chunks in half for chunk, added in enumerate(chunks) if added == everybody) == list(
        range(num_workers)
    )
    last, _ = history[-1]
    assert all(added == everybody for chunks in last for added in chunks)
    for (before, _), (after, received) in itertools.pairwise(history):
        for worker in range(num_workers):
            changed = [chunk for chunk in range(num_workers) if after[worker][chunk] != before[worker][chunk]]
            assert changed == [received[worker]]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_picture_of_the_ring(language, monkeypatch):
    monkeypatch.setenv("ONEHOUR_LANGUAGE", language)
    assert pictures.ring.draw(3).data.count("reduce-scatter") >= 2


def test_one_worker_by_hand_and_by_the_wrapper_is_the_same(alone):
    assert ddp.by_hand(0, 1) == ddp.with_ddp(0, 1)


def test_two_workers_by_hand_and_sharded_have_the_losses_of_one(alone):
    first, second = ddp.start(ddp.both, 2)
    assert first == second
    for way, expected in ddp.both(0, 1).items():
        assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(first[way], expected, strict=True))
    parts, whole = ddp.start(fsdp.sharded, 2), fsdp.sharded(0, 1)
    assert sum(part.held for part in parts) == whole.held == whole.whole == 752
    assert sum(part.moments for part in parts) == whole.moments == 2 * 752
    for part in parts:
        assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(part.losses, whole.losses, strict=True))
