import itertools
import tracemalloc

import numpy as np
import pytest

from onehour.data.order import SMALL, evaluation_ids, positions_of, sample_at, uniform
from onehour.errors import InputError

AROUND_SMALL = (SMALL - 1, SMALL, SMALL + 1)

GOLDEN_5 = [0, 3, 2, 1, 4, 2, 3, 0]
GOLDEN_MILLION = [823470, 425989, 725637, 637590, 949482, 412459, 396445, 934297]
GOLDEN_TRILLION = [50052667262, 550231966788, 111407546163, 228705128495]
GOLDEN_UNIFORM = [[14495250, 673653], [15395251, 10860976], [2014643, 14543542]]


def share_of_batch(step, rank, world_size, global_batch_size, num_samples, seed):
    """The ids that a worker trains at a step."""
    return sample_at(positions_of(step, global_batch_size, rank, world_size), num_samples, seed)


def epoch(number, num_samples, seed):
    return sample_at(np.arange(number * num_samples, (number + 1) * num_samples), num_samples, seed)


def deviations(counts):
    """Pearson's chi-square of equally likely outcomes, in standard deviations from what chance gives."""
    counts = np.asarray(counts)
    expected, freedom = counts.mean(), counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("num_samples", [*range(1, 70), *AROUND_SMALL, 1089, 1437, 4096, 10007, 65536, 100003])
def test_every_sample_comes_exactly_once_in_an_epoch(num_samples):
    for number in (0, 1, 1000):
        assert np.array_equal(np.sort(epoch(number, num_samples, seed=7)), np.arange(num_samples))


@pytest.mark.parametrize("num_samples", [2**31 + 11, 10**12, 2**53 + 1, 2**62])
def test_a_part_of_a_large_epoch_has_no_sample_twice(num_samples):
    ids = sample_at(np.arange(num_samples - 50_000, num_samples), num_samples, seed=0)
    assert len(np.unique(ids)) == 50_000
    assert 0 <= ids.min() < ids.max() < num_samples
    tenths = np.bincount(ids // (num_samples // 10 + 1), minlength=10)
    assert abs(deviations(tenths)) < 4


@pytest.mark.parametrize("num_samples", [5, 97, *AROUND_SMALL, 10**12])
def test_the_shares_of_all_ranks_are_the_same_batch_at_every_world_size(num_samples):
    for step in (0, 1, 17, 10**6):
        whole = share_of_batch(step, 0, 1, 48, num_samples, seed=3)
        for world_size in (2, 3, 4, 16, 48):
            shares = [share_of_batch(step, rank, world_size, 48, num_samples, seed=3) for rank in range(world_size)]
            assert np.array_equal(np.concatenate(shares), whole)


@pytest.mark.parametrize(("num_samples", "batch"), [(5, 3), (5, 12), (1, 4), (7, 7), (1500, 64), (1500, 4000)])
def test_batches_are_full_and_follow_one_another_through_the_epochs(num_samples, batch):
    num_steps = -(-3 * num_samples // batch)
    stream = np.concatenate([share_of_batch(step, 0, 1, batch, num_samples, seed=1) for step in range(num_steps)])
    assert len(stream) == num_steps * batch
    for number in range(3):
        of_epoch = stream[number * num_samples : (number + 1) * num_samples]
        assert np.array_equal(np.sort(of_epoch), np.arange(num_samples))


def test_each_position_is_looked_up_on_its_own():
    for num_samples in (10, 5000):
        positions = np.random.default_rng(0).permutation(3 * num_samples)
        together = sample_at(positions, num_samples, seed=2)
        alone = [sample_at(positions[i : i + 1], num_samples, seed=2)[0] for i in range(30)]
        assert np.array_equal(together[:30], alone)


def test_every_order_of_five_samples_is_equally_likely():
    orders = {order: i for i, order in enumerate(itertools.permutations(range(5)))}
    over_epochs = sample_at(np.arange(5 * 24_000), 5, seed=0).reshape(-1, 5)
    over_seeds = np.stack([epoch(0, 5, seed) for seed in range(6_000)])
    for seen in (over_epochs, over_seeds):
        counts = np.bincount([orders[tuple(order)] for order in seen.tolist()], minlength=120)
        assert counts.min() > 0
        assert abs(deviations(counts)) < 4


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 31), (3, 65), (0, 32)])
def test_where_two_samples_end_up_has_nothing_to_do_with_where_they_began(first, second):
    # Neighbours in a row of the grid (of 34 x 31), and pairs from one column, which a Feistel network parts last.
    epochs = np.arange(500_000) * (SMALL + 1)
    a = sample_at(epochs + first, SMALL + 1, seed=first)
    b = sample_at(epochs + second, SMALL + 1, seed=first)
    apart = np.bincount((a - b) % (SMALL + 1), minlength=SMALL + 1)
    assert apart[0] == 0
    assert abs(deviations(apart[1:])) < 4
    assert abs(deviations(np.bincount(a, minlength=SMALL + 1))) < 4


def test_odd_and_even_orders_are_equally_likely():
    def is_odd(order):
        """A permutation is odd if its number of elements less its number of cycles is."""
        seen, num_cycles = set(), 0
        for start in range(len(order)):
            num_cycles += start not in seen
            while start not in seen:
                seen.add(start)
                start = order[start]
        return (len(order) - num_cycles) % 2

    num_odd = sum(is_odd(epoch(number, 1089, seed=0).tolist()) for number in range(200))
    assert 70 < num_odd < 130  # 100 on average, with a standard deviation of 7


def test_seeds_and_epochs_give_different_orders():
    for num_samples in (100, 2000):
        orders = [epoch(number, num_samples, seed) for number in range(3) for seed in (0, 1, 2, -1, 2**64 - 2, 10**30)]
        assert len({tuple(order) for order in orders}) == len(orders)


def test_the_order_does_not_change_from_one_version_to_the_next():
    """A run that resumes under a new version must see the samples that it would have seen."""
    assert sample_at(np.arange(8), 5, seed=0).tolist() == GOLDEN_5
    assert share_of_batch(3, 0, 1, 8, 10**6, seed=0).tolist() == GOLDEN_MILLION
    assert share_of_batch(0, 0, 1, 4, 10**12, seed=1).tolist() == GOLDEN_TRILLION
    assert (uniform(np.arange(3), 2, seed=0) * 2**24).astype(int).tolist() == GOLDEN_UNIFORM


def test_a_trillion_samples_take_no_memory():
    share_of_batch(0, 0, 1, 64, 10**12, seed=0)
    tracemalloc.start()
    for step in range(100):
        share_of_batch(10**9 + step, 0, 1, 64, 10**12, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000


@pytest.mark.parametrize("num_samples", [0, 1, 7, 100, 10**12 + 1])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_evaluation_takes_every_sample_exactly_once(num_samples, world_size):
    shares = [evaluation_ids(num_samples, rank, world_size) for rank in range(world_size)]
    assert shares[0].start == 0
    assert shares[-1].stop == num_samples
    assert all(left.stop == right.start for left, right in itertools.pairwise(shares))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_uniform_numbers_are_uniform_and_belong_to_their_position():
    numbers = uniform(np.arange(50_000), 4, seed=5)
    assert numbers.shape == (50_000, 4)
    assert numbers.dtype == np.float32
    assert 0 <= numbers.min() < numbers.max() < 1
    assert abs(deviations(np.bincount((numbers * 100).astype(int).ravel(), minlength=100))) < 4
    assert abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.02
    assert np.array_equal(uniform(np.array([123, 7]), 4, seed=5), numbers[[123, 7]])
    assert not np.array_equal(uniform(np.arange(4), 4, seed=6), numbers[:4])


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do():
    with pytest.raises(InputError, match=r"batch of 10 samples does not divide by 4 workers.* to 8 or 12"):
        positions_of(0, 10, 0, 4)
    with pytest.raises(InputError, match=r"to 4\.$"):
        share_of_batch(0, 0, 4, 3, 100, seed=0)


def test_no_samples_are_refused():
    with pytest.raises(InputError, match=r"There are 0 samples"):
        share_of_batch(0, 0, 1, 4, 0, seed=0)
