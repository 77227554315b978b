"""The checks of chapter 8, Many GPUs."""

from typing import Any

import torch
from torch import Tensor

from onehour.course.check.read import call, is_near, number, numbers, raised
from onehour.course.check.verdict import RIGHT, Verdict, not_yet
from onehour.data.order import positions_of


def many_gpus_1(answer: Any) -> Verdict:
    """Gigabytes on each of 8 GPUs of weights, gradients and AdamW's moments of 13 billion parameters."""
    whole = 13e9 * (4 + 4 + 8) / 1e9
    given = number(answer)
    if given is None:
        return not_yet("The answer is one number, of GB.", "答案应是一个数，单位 GB。")
    if is_near(given, whole / 8):
        return RIGHT
    if is_near(given, whole):
        return not_yet("That is all of it; FSDP gives each GPU a part.", "那是全部；FSDP 只给每块 GPU 一部分。")
    if is_near(given, 1e9 * whole / 8):
        return not_yet("That is in bytes; the question asks for GB.", "那是字节数；题目要的是 GB。")
    return not_yet(
        "How many bytes belong to one parameter, all four numbers together? FSDP divides all of them.",
        "每个参数的四个数一共占多少字节？FSDP 把它们全都分开。",
    )


def many_gpus_2(answer: Any) -> Verdict:
    """The positions that rank 2 of 4 reads at step 5 of a run with a global batch of 32."""
    right = positions_of(5, 32, 2, 4).tolist()
    given = numbers(answer)
    if given is None:
        return not_yet("The answer is a list or a range of positions.", "答案应是位置的列表或 range。")
    if given == right:
        return RIGHT
    if len(given) != len(right):
        return not_yet(
            "How many samples of the global batch are one worker's?", "全局批量里有几个样本属于一个工作进程？"
        )
    if sorted(given) == right:
        return not_yet("The right positions, in another order.", "位置是对的，顺序不对。")
    return not_yet(
        "Steps and ranks count from 0: what have all workers read before step 5, and the lower ranks in it?",
        "步和 rank 都从 0 数起：第 5 步之前大家一共读了多少，这一步里更小的 rank 又读了多少？",
    )


def many_gpus_3(answer: Any) -> Verdict:
    """The accuracy over all samples, from those of three unequal parts."""
    counts, accuracies = [200, 50, 10], [0.50, 0.80, 0.90]
    right = sum(n * a for n, a in zip(counts, accuracies, strict=True)) / sum(counts)
    given = number(answer)
    if given is None:
        return not_yet("The answer is one number between 0 and 1.", "答案应是 0 到 1 之间的一个数。")
    if is_near(given, right, 5e-4):
        return RIGHT
    if is_near(given, sum(accuracies) / 3, 5e-3):
        return not_yet(
            "That is the mean of the means: the ten samples of the last worker count as much as the first one's 200.",
            "那是平均数的平均：最后一个工作进程的 10 个样本和第一个的 200 个算得一样重。",
        )
    return not_yet("How many samples are right at each worker, and in all?", "每个工作进程答对了几个样本？一共呢？")


def many_gpus_4(answer: Any) -> Verdict:
    """A function (list of N tensors of a length divisible by N) -> list of the N parts of their sum."""
    if not callable(answer):
        return not_yet("The answer is a function of a list of tensors.", "答案应是一个函数，参数是张量的列表。")
    random = torch.Generator().manual_seed(11)
    tensors = [torch.randint(100, (12,), generator=random).float() for _ in range(3)]
    given = call(lambda: list(answer([tensor.clone() for tensor in tensors])))
    if isinstance(given, Exception):
        return raised(given)
    return of_parts([numbers(part) for part in given], torch.stack(tensors).sum(dim=0))


def of_parts(parts: list[list[float] | None], right: Tensor) -> Verdict:
    """The verdict on what three ranks got of a sum `right` of 12 numbers."""
    if len(parts) != 3 or None in parts:
        return not_yet("Return a list with one 1-D tensor for each rank.", "返回一个列表，每个 rank 一个一维张量。")
    lengths = {len(part) for part in parts if part is not None}
    if lengths == {12}:
        return not_yet("Every rank got the whole: that is an all-reduce.", "每个 rank 都拿到了全部：那是 all-reduce。")
    if lengths != {4}:
        return not_yet("Every rank gets one part in N of the length.", "每个 rank 得到长度的 N 分之一。")
    whole = torch.tensor(parts).flatten()
    if torch.allclose(whole, right):
        return RIGHT
    if torch.allclose(whole, right / 3):
        return not_yet("That is the mean; a reduce-scatter adds up.", "那是平均；reduce-scatter 是求和。")
    return not_yet(
        "Add up over the workers first; then part the sum, in the order of the ranks.",
        "先对各工作进程求和，再按 rank 的顺序分开。",
    )
