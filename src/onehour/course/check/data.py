"""The checks of chapter 4, Data."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from onehour.course.check.read import call, is_close, short, whole_numbers
from onehour.course.check.verdict import RIGHT, Verdict, not_yet
from onehour.data.order import positions_of, sample_at


def data_1(answer: Any) -> Verdict:
    """The number of batches without and with drop_last."""
    given = whole_numbers(answer)
    if given is None or len(given) != 2:
        return not_yet("the answer is two whole numbers: (without, with).", "答案是两个整数：（不丢弃，丢弃）。")
    samples: Any = range(1000)
    right = [len(DataLoader(samples, batch_size=64, drop_last=drop)) for drop in (False, True)]
    if given == right:
        return RIGHT
    if given == right[::-1]:
        return not_yet("these are the two numbers, the other way round.", "数字对了，顺序反了。")
    return not_yet("how often does 64 go into 1,000, and what is left over?", "1000 里有几个 64？还剩多少？")


def data_2(answer: Any) -> Verdict:
    """A dataset of the numbers 0 to 9 and their squares."""
    if isinstance(answer, type):
        return not_yet(
            "this is a class; the answer is an object of it, such as Squares().",
            "这是一个类；答案应是它的对象，例如 Squares()。",
        )
    if not (hasattr(answer, "__len__") and hasattr(answer, "__getitem__")):
        return not_yet("a dataset has __len__ and __getitem__.", "数据集要有 __len__ 和 __getitem__。")
    length = call(len, answer)
    if length != 10:
        return not_yet(f"its length is {short(length, True)}, not 10.", f"它的长度是 {short(length, True)}，不是 10。")
    for i in range(10):
        sample = call(answer.__getitem__, i)
        if not (isinstance(sample, tuple | list) and len(sample) == 2 and all(map(is_float_scalar, sample))):
            return not_yet(
                f"sample {i} is not a pair of float tensors of shape (): {short(sample, True)}",
                f"样本 {i} 不是一对形状为 () 的浮点张量：{short(sample, True)}",
            )
        if [float(value) for value in sample] != [i, i**2]:
            return not_yet(f"sample {i} is not ({i}, {i**2}).", f"样本 {i} 不是 ({i}, {i**2})。")
    return RIGHT


def data_3(answer: Any) -> Verdict:
    """A collate function that pads with zeros."""
    if not callable(answer):
        return not_yet("the answer is a function of a list of tensors.", "答案是一个以张量列表为参数的函数。")
    for lengths in ((3, 1), (1,), (2, 5, 4)):
        samples = [torch.arange(1, length + 1) for length in lengths]
        given, right = call(answer, [sample.clone() for sample in samples]), pad_sequence(samples, batch_first=True)
        if isinstance(given, Tensor) and given.shape == right.T.shape != right.shape and torch.equal(given.T, right):
            return not_yet("samples are the rows, not the columns.", "样本应是行，不是列。")
        if not is_close(given, right):
            got = f"{tuple(given.shape)}" if isinstance(given, Tensor) else short(given)
            return not_yet(
                f"from the lengths {lengths} should come {right.tolist()}; it gave {got}.",
                f"长度为 {lengths} 时应得到 {right.tolist()}；得到的是 {got}。",
            )
    return RIGHT


def data_4(answer: Any) -> Verdict:
    """A sampler that is a function of seed and epoch."""
    if not callable(answer):
        return not_yet(
            "the answer is a function of num_samples, seed, epoch.",
            "答案是一个以 num_samples, seed, epoch 为参数的函数。",
        )
    orders = {}
    for num_samples, seed, epoch in ((97, 1, 0), (97, 1, 1), (97, 2, 0), (1500, 1, 7)):
        given = call(answer, num_samples, seed, epoch)
        order = ids(given)
        if sorted(order) != list(range(num_samples)):
            return not_yet(
                f"for {num_samples} samples, epoch {epoch} must have each id from 0 to {num_samples - 1} once; "
                f"it gave {short(given)}.",
                f"{num_samples} 个样本时，第 {epoch} 轮应包含 0 到 {num_samples - 1} 的每个编号各一次；得到的是 {short(given)}。",
            )
        if ids(call(answer, num_samples, seed, epoch)) != order:
            return not_yet(
                "the same seed and epoch gave another order the second time: it has a state.",
                "相同的种子和轮次，第二次得到了另一种顺序：它带有状态。",
            )
        orders[num_samples, seed, epoch] = order
    if orders[97, 1, 0] == orders[97, 1, 1]:
        return not_yet("epochs 0 and 1 have the same order.", "第 0 轮和第 1 轮的顺序相同。")
    if orders[97, 1, 0] == orders[97, 2, 0]:
        return not_yet("the seeds 1 and 2 give the same order.", "种子 1 和 2 给出的顺序相同。")
    return RIGHT


def data_5(answer: Any) -> Verdict:
    """The share of worker 1 of 4 at step 1,000."""
    given = ids(answer)
    if len(given) != 8:
        return not_yet(
            "the answer is eight ids: 32 samples for 4 workers.", "答案是八个编号：32 个样本分给 4 个工作进程。"
        )
    shares = [sample_at(positions_of(1000, 32, rank, 4), 1437, 123).tolist() for rank in range(4)]
    if given == shares[1]:
        return RIGHT
    if given in shares:
        return not_yet(
            f"this is the share of worker {shares.index(given)}.", f"这是工作进程 {shares.index(given)} 的那一份。"
        )
    if sorted(given) == sorted(shares[1]):
        return not_yet("these are the samples, in another order.", "样本对了，顺序不对。")
    return not_yet(
        "the batch of step s begins at position 32·s, and worker 1 skips the eight positions of worker 0.",
        "第 s 步的批量从位置 32·s 开始，工作进程 1 跳过工作进程 0 的八个位置。",
    )


def ids(answer: Any) -> list[int]:
    """The ids in a sequence of integers, whose type is one that counts; of anything else, none."""
    kind = call(lambda: np.asarray(answer).dtype.kind)
    return whole_numbers(answer) or [] if kind in ("i", "u") else []


def is_float_scalar(value: Any) -> bool:
    """Whether it is a tensor of floating-point numbers, of shape ()."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 0
