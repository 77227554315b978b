"""Chapter 4: its checks tell right from wrong, and its timeline shows who loaded what."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from onehour.course import check, pictures
from onehour.course.datasets import SlowBatches, Stretch
from onehour.data.order import positions_of, sample_at

from .answers import wrong


@pytest.mark.parametrize("answer", [(16, 15), [16, 15], np.array([16, 15]), torch.tensor([16, 15])])
def test_1_takes_both_numbers_of_batches(answer):
    assert check.data_1(answer)


@pytest.mark.parametrize("answer", [(15, 16), (15, 15), (16, 16), 16, (16.0, 15.5), ("16", "15"), (16,)])
def test_1_has_a_hint_for_other_numbers(answer):
    assert wrong(check.data_1(answer))


class Pairs(Dataset):
    def __init__(self, length=10, power=2, kind=float):
        self.length, self.power, self.kind = length, power, kind

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor(self.kind(index)), torch.tensor(self.kind(index**self.power))


numbers = torch.arange(10.0)


@pytest.mark.parametrize(
    "answer",
    [Pairs(), TensorDataset(numbers, numbers**2), list(zip(numbers, numbers**2, strict=True)), Pairs(kind=np.float64)],
    ids=["class", "TensorDataset", "list", "float64"],
)
def test_2_takes_any_dataset_of_the_squares(answer):
    assert check.data_2(answer)


@pytest.mark.parametrize(
    "answer",
    [
        Pairs,
        Pairs(9),
        Pairs(power=3),
        Pairs(kind=int),
        TensorDataset(numbers),
        TensorDataset(numbers[:, None], numbers[:, None] ** 2),
        [(i, i**2) for i in range(10)],
        {i: i for i in range(1, 11)},
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_2_tells_other_datasets_apart(answer):
    assert wrong(check.data_2(answer))


def pad_in_a_loop(samples):
    longest = max(map(len, samples))
    return torch.stack([torch.cat([sample, sample.new_zeros(longest - len(sample))]) for sample in samples])


@pytest.mark.parametrize("answer", [pad_in_a_loop, lambda samples: pad_sequence(samples, batch_first=True)])
def test_3_takes_any_padding_with_zeros(answer):
    assert check.data_3(answer)


@pytest.mark.parametrize(
    "answer",
    [
        pad_sequence,
        torch.stack,
        lambda samples: pad_sequence(samples, batch_first=True, padding_value=-1),
        lambda samples: pad_sequence(samples, batch_first=True, padding_side="left"),
        lambda samples: torch.nn.functional.pad(pad_sequence(samples, batch_first=True), (0, 1)),
        lambda samples: pad_sequence(samples, batch_first=True)[:, :3],
        lambda a, b: a,
    ],
)
def test_3_tells_other_functions_apart(answer):
    assert wrong(check.data_3(answer))


def test_3_says_when_rows_and_columns_are_swapped():
    assert "rows" in check.data_3(pad_sequence).hint


def of_the_stream(num_samples, seed, epoch):
    return sample_at(np.arange(epoch * num_samples, (epoch + 1) * num_samples), num_samples, seed)


def of_torch(num_samples, seed, epoch):
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(1000 * seed + epoch)).tolist()


@pytest.mark.parametrize("answer", [of_the_stream, of_torch, lambda *a: tuple(of_torch(*a))])
def test_4_takes_any_order_that_is_a_function_of_seed_and_epoch(answer):
    assert check.data_4(answer)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda n, seed, epoch: list(range(n)), "epochs"),
        (lambda n, seed, epoch: of_torch(n, seed, 0), "epochs"),
        (lambda n, seed, epoch: of_torch(n, 0, epoch), "seeds"),
        (lambda n, seed, epoch: np.random.permutation(n), "state"),
        (lambda n, seed, epoch: of_torch(n - 1, seed, epoch), "once"),
        (lambda n, seed, epoch: np.random.default_rng(epoch).integers(0, n, n), "once"),
        (lambda n, seed, epoch: of_torch(n, seed, epoch).nonsense, "AttributeError"),
        (lambda n, seed: list(range(n)), "TypeError"),
    ],
)
def test_4_says_what_an_order_lacks(answer, word):
    verdict = check.data_4(answer)
    assert wrong(verdict) and word in verdict.hint


def share(rank):
    return sample_at(positions_of(1000, 32, rank, 4), 1437, 123)


@pytest.mark.parametrize("answer", [share(1), share(1).tolist(), tuple(share(1).tolist()), torch.from_numpy(share(1))])
def test_5_takes_the_share_of_worker_1(answer):
    assert check.data_5(answer)


def test_5_knows_whose_share_it_is():
    assert "worker 0" in check.data_5(share(0)).hint
    assert "order" in check.data_5(share(1)[::-1]).hint
    assert wrong(check.data_5(sample_at(positions_of(999, 32, 1, 4), 1437, 123)))
    assert wrong(check.data_5(share(1).astype(float)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_slow_batches_come_in_order_and_tell_who_loaded_them(num_workers):
    loaded = list(DataLoader(SlowBatches(3, seconds=0.001), batch_size=None, num_workers=num_workers))
    assert [stretch.batch for stretch in loaded] == [0, 1, 2]
    assert {stretch.process for stretch in loaded} == {num_workers - 1}
    assert all(stretch.ended - stretch.began >= 0.001 and not stretch.training for stretch in loaded)


def test_the_timeline_has_a_row_for_each_process():
    stretches = [Stretch(0, 1, 5.0, 6.0), Stretch(0, -1, 6.0, 6.5, training=True)]
    drawn = pictures.loader.draw({2: [stretch.since(5.0) for stretch in stretches]}).data
    assert all(
        f">{text}<" in drawn for text in ("main", "worker 0", "worker 1", "num_workers=2", "loading", "training")
    )
