"""The checks of chapter 10."""

import math
from typing import Any

from onehour.course.check.read import call, number, raised, short
from onehour.course.check.verdict import RIGHT, Verdict, not_yet


def search_1(answer: Any) -> Verdict:
    """Minutes for a grid of 4 x 3 x 5 trials of 2 minutes each, four at a time."""
    minutes = number(answer)
    if minutes is None:
        return not_yet("give one number, in minutes.", "请给出一个数，单位为分钟。")
    trials, at_once, each = 4 * 3 * 5, 4, 2
    if minutes == math.ceil(trials / at_once) * each:
        return RIGHT
    if minutes == trials * each:
        return not_yet("four of them run at a time.", "有四个试验同时运行。")
    return not_yet("a grid has every combination: its sizes multiply.", "网格包含每一种组合：各维的个数相乘。")


def search_2(answer: Any) -> Verdict:
    """The least number of random trials of which one is, with 95 % probability, among the best tenth of all."""
    trials = number(answer)
    if trials is None:
        return not_yet("give one whole number.", "请给出一个整数。")
    if trials == next(n for n in range(1, 1000) if 1 - 0.9**n >= 0.95):
        return RIGHT
    return not_yet(
        "one trial misses the best tenth with probability 0.9; work out when n of them all miss it with at most 0.05.",
        "一次试验错过最好的十分之一的概率是 0.9；求 n 次全部错过的概率何时不超过 0.05。",
    )


def search_3(answer: Any) -> Verdict:
    """A function of u in [0, 1) that draws from 1e-4 to 1e-1, every decade equally likely."""
    if not callable(answer):
        return not_yet("the answer is a function of u.", "答案应当是 u 的函数。")
    for u in (0.0, 1 / 3, 0.5, 2 / 3, 0.999):
        ours, theirs = 10 ** (3 * u - 4), call(answer, u)
        if isinstance(theirs, Exception):
            return raised(theirs)
        value = number(theirs)
        if value is None:
            return not_yet(
                f"for u = {u:.3g} it gives {short(theirs, True)}, no number.",
                f"u = {u:.3g} 时得到 {short(theirs, True)}，不是数。",
            )
        if not math.isclose(value, ours, rel_tol=1e-4):
            return not_yet(
                f"for u = {u:.3g} it gives {value:.3g}; the exponent has to be uniform, from -4 to -1.",
                f"u = {u:.3g} 时得到 {value:.3g}；应当让指数从 -4 到 -1 均匀分布。",
            )
    return RIGHT


def search_4(answer: Any) -> Verdict:
    """A function of {name: loss} at a rung and the factor: the names that go on, best first."""
    if not callable(answer):
        return not_yet("the answer is a function of losses and factor.", "答案应当是 losses 和 factor 的函数。")
    for losses, factor in (
        ({"a": 0.9, "b": 0.3, "c": 0.7, "d": 0.5, "e": 0.4, "f": 0.8}, 3),
        ({"a": 0.2, "b": 0.1, "c": 0.3, "d": 0.4}, 2),
        ({"a": 0.2, "b": 0.1}, 4),
        ({str(i): 1 / (1 + i) for i in range(10)}, 3),
    ):
        ours = sorted(losses, key=lambda name: losses[name])[: max(1, len(losses) // factor)]
        theirs = call(answer, dict(losses), factor)
        if isinstance(theirs, Exception):
            return raised(theirs)
        if not isinstance(theirs, list | tuple) or list(map(str, theirs)) != ours:
            return not_yet(
                f"for {len(losses)} trials and factor {factor} it gives {theirs!r}; the best 1/{factor} go on, rounded "
                "down, at least one, best first.",
                f"{len(losses)} 个试验、factor={factor} 时得到 {theirs!r}；应留最好的 1/{factor}，向下取整，至少一个，好的在前。",
            )
    return RIGHT


def search_5(answer: Any) -> Verdict:
    """The epochs of synchronous successive halving: 27 trials, rungs at 1, 3 and 9, the last to 27, factor 3."""
    epochs = number(answer)
    if epochs is None:
        return not_yet("give one number of epochs.", "请给出一个轮次总数。")
    if epochs == halving_epochs(27, 3):
        return RIGHT
    if epochs == 27 * 27:
        return not_yet("that is the cost without stopping any.", "那是一个都不停止时的代价。")
    if epochs == sum(27 // 3**rung * 3**rung for rung in range(4)):
        return not_yet(
            "a survivor goes on from where it was; its first epochs are not done again.",
            "留下的试验从原处继续，之前的轮次不再重做。",
        )
    return not_yet(
        "add up, rung by rung, how many trials reach it times the epochs from the rung before.",
        "逐级相加：到达该级的试验数，乘以从上一级到这一级的轮次数。",
    )


def halving_epochs(trials: int, factor: int) -> int:
    """Epochs in all, when the best 1/factor at 1, factor, factor^2 ... epochs go on until one is left."""
    epochs, done, rung = 0, 0, 1
    while trials:
        epochs += trials * (rung - done)
        trials, done, rung = trials // factor, rung, rung * factor
    return epochs
