"""The checks of chapter 9."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from onehour.course.check.read import call, is_near, number, short, whole_numbers
from onehour.course.check.verdict import RIGHT, Verdict, not_yet
from onehour.data.order import positions_of
from onehour.errors import InputError


def ray_1(answer: Any) -> Verdict:
    """Which numbers of workers from 1 to 12 can share a global batch of 60 samples."""
    numbers = whole_numbers(list(answer) if isinstance(answer, set) else answer)
    if numbers is None:
        return not_yet("give a list of whole numbers.", "请给出一个整数列表。")
    if set(numbers) == {workers for workers in range(1, 13) if divides(60, workers)}:
        return RIGHT
    wrong = [workers for workers in numbers if workers < 1 or not divides(60, workers)]
    if wrong:
        return not_yet(
            f"{wrong[0]} workers cannot have equal whole shares of 60 samples.",
            f"{wrong[0]} 个工作进程无法把 60 个样本分成相等的整数份。",
        )
    return not_yet(
        "these are right, or too large; go through 1 to 12 one by one: some are missing, or some are beyond 12.",
        "请从 1 到 12 逐个检查：有遗漏，或有超过 12 的数。",
    )


def ray_2(answer: Any) -> Verdict:
    """The positions in the stream that rank 1 of 4 trains in step 10 (from 0) at a global batch of 60."""
    numbers = whole_numbers(answer)
    if numbers is None:
        return not_yet("give a list, a range or an array of whole numbers.", "请给出整数的列表、range 或数组。")
    if numbers == positions_of(10, 60, rank=1, world_size=4).tolist():
        return RIGHT
    if len(numbers) != 15:
        return not_yet("each of 4 workers has 60 / 4 samples of a step.", "4 个工作进程在每步各有 60 / 4 个样本。")
    return not_yet(
        "ten whole global batches come before this step, and the share of rank 0 before this share.",
        "这一步之前有十个完整的全局批量，这一份之前还有 rank 0 的那一份。",
    )


def ray_3(answer: Any) -> Verdict:
    """A function from the steps of metrics.jsonl, as they were written, to how many of them were done again."""
    if not callable(answer):
        return not_yet("the answer is a function of a list of steps.", "答案应当是一个以步号列表为参数的函数。")
    for steps in (
        [1, 2, 3],
        [1, 2, 3, 4, 5, 3, 4, 5, 6],
        [1, 2, 1, 2, 1, 2, 3],
        list(range(1, 130)) + list(range(101, 301)),
    ):
        ours, theirs = len(steps) - len(set(steps)), call(answer, list(steps))
        if isinstance(theirs, Exception):
            return not_yet(
                f"for the steps {listed(steps)} it raises {short(theirs)}",
                f"对步号 {listed(steps)}，它抛出了 {short(theirs)}",
            )
        if number(theirs) != ours:
            return not_yet(
                f"for the steps {listed(steps)} it returns {theirs!r}.", f"对步号 {listed(steps)}，它返回 {theirs!r}。"
            )
    return RIGHT


def ray_4(answer: Any) -> Verdict:
    """The best time between checkpoints, in seconds, for 512 nodes, 90 days and a stall of 3 s; 2 % either way."""
    seconds = number(answer)
    if seconds is None:
        return not_yet("give one number, in seconds.", "请给出一个数，单位为秒。")
    between_faults = 90 * 24 * 3600 / 512
    best = cheapest(lambda interval: 3 / interval + interval / 2 / between_faults)
    if is_near(seconds, best, 0.02):
        return RIGHT
    if is_near(seconds, best * math.sqrt(512), 0.02):
        return not_yet(
            "that would be right for one node; 512 fail more often.", "这对一个节点是对的；512 个节点更常出故障。"
        )
    return not_yet(
        "add up both shares of lost time, as a function of the interval, and find its minimum.",
        "把两部分损失的时间写成间隔的函数，相加后求最小值。",
    )


def ray_5(answer: Any) -> Verdict:
    """How many of 1 to 8 workers start on nodes with 3, 3 and 2 cores, at one core each and at two, for a batch of 60."""
    numbers = whole_numbers(answer)
    if numbers is None or len(numbers) != 2:
        return not_yet("give a pair of whole numbers.", "请给出一对整数。")
    ours = [max_workers([3, 3, 2], cpus, batch=60) for cpus in (1, 2)]
    if numbers == ours:
        return RIGHT
    if numbers[0] != ours[0]:
        return not_yet(
            "with one core each: 60 has to divide by the number of workers.", "每个一核时：60 要能被工作进程数整除。"
        )
    return not_yet("with two cores each: no worker reaches over two nodes.", "每个两核时：一个工作进程不能跨两个节点。")


def max_workers(cores: Sequence[int], cpus: int, batch: int) -> int:
    """The most workers with so many cores each that fit on nodes with `cores`, and divide the batch."""
    room = sum(free // cpus for free in cores)
    return max(workers for workers in range(1, room + 1) if divides(batch, workers))


def divides(size: int, workers: int) -> bool:
    """Whether so many workers can share a global batch."""
    try:
        positions_of(0, size, 0, workers)
    except InputError:
        return False
    return True


def cheapest(cost: Callable[[float], float]) -> float:
    """The whole or tenth second up to an hour at which the cost is lowest."""
    return min((tenths / 10 for tenths in range(1, 36_000)), key=cost)


def listed(steps: Sequence[int]) -> str:
    """A list of steps as a hint names it."""
    return str(list(steps)) if len(steps) < 12 else f"[{steps[0]}, {steps[1]}, ..., {steps[-1]}]"
