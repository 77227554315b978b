"""The checks of chapter 12."""

import contextlib
import io
import math
import shlex
from typing import Any

from onehour.course.check.read import call, is_near, numbers
from onehour.course.check.verdict import RIGHT, Verdict, not_yet

NODES = (16, 7, 3)  # CPU cores of each node
GRADIENT_BYTES = 13.5e9  # 6.74 billion numbers of 2 bytes
BANDWIDTH = 50e9  # bytes per second of each worker's link
CHECKPOINT_SECONDS = 30.0
MEAN_SECONDS_TO_FAULT = 12 * 3600.0


def clusters_1(answer: Any) -> Verdict:
    """How many workers of 2 CPU cores fit on NODES."""
    if is_near(answer, sum(cores // 2 for cores in NODES), 1e-9):
        return RIGHT
    if is_near(answer, sum(NODES) // 2, 1e-9):
        return not_yet("A worker is one process on one node: it cannot take one core here and one there.",
                       "一个工作进程是某一个节点上的一个进程：不能在这里占一个核、在那里占一个核。")  # fmt: skip
    return not_yet("Count for each node how many whole workers it holds, and add; the answer is a number.",
                   "分别数出每个节点能容纳多少个完整的工作进程，再相加；答案是一个数。")  # fmt: skip


def clusters_2(answer: Any) -> Verdict:
    """Seconds of a ring all-reduce of GRADIENT_BYTES among 16 workers."""
    right = 2 * 15 / 16 * GRADIENT_BYTES / BANDWIDTH
    if is_near(answer, right, 1e-3):
        return RIGHT
    if is_near(answer, right / 2, 1e-3):
        return not_yet("Half of it: after the sums have gone around, each worker still needs all of them.",
                       "只有一半：求和转完一圈之后，每个工作进程还要拿到全部的和。")  # fmt: skip
    return not_yet("Each worker sends 2 (n - 1) / n times the gradients; divide by what its link carries in a second.",
                   "每个工作进程发送梯度字节数的 2 (n - 1) / n 倍；再除以链路每秒传输的字节数。")  # fmt: skip


def clusters_3(answer: Any) -> Verdict:
    """The arguments of onehour that train a GPT of depth 8 on 64 GPUs, batch 512, a checkpoint every 10 minutes."""
    options = parsed(answer)
    if options is None:
        return not_yet("A list of words or one string, as after `python -m onehour`; onehour does not understand this one.",
                       "应是一个词的列表或一个字符串，即 `python -m onehour` 之后的部分；onehour 看不懂这一个。")  # fmt: skip
    recipe, config, scale = options
    found = {
        "gpt": recipe.name(), "--depth": getattr(recipe, "depth", None), "--workers": scale.sizes(),
        "--gpu": scale.gpu, "--global-batch-size": config.global_batch_size,
        "--checkpoint-every": config.checkpoint_every, "--runs": str(scale.runs),
    }  # fmt: skip
    wanted = {
        "gpt": "gpt", "--depth": 8, "--workers": range(64, 65), "--gpu": True, "--global-batch-size": 512,
        "--checkpoint-every": "10m", "--runs": "/shared/runs",
    }  # fmt: skip
    wrong = [name for name in wanted if found[name] != wanted[name]]
    if wrong:
        return not_yet(f"Look again at {', '.join(wrong)}.", f"再看看 {'、'.join(wrong)}。")
    return RIGHT


def parsed(answer: Any) -> tuple[Any, Any, Any] | None:
    """Recipe, TrainConfig and ScaleConfig of the arguments, as the command line itself reads them; None if it can't."""
    from onehour.commands.train import train_options
    from onehour.errors import InputError

    words = call(shlex.split, answer) if isinstance(answer, str) else call(lambda: [str(word) for word in answer])
    if not isinstance(words, list) or len(words) < 2 or words[0] != "train":
        return None
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        try:
            return train_options(words[1:])
        except (InputError, SystemExit):
            return None


def clusters_4(answer: Any) -> Verdict:
    """The speed-ups at 1, 2, 4, ... 64 workers of a step of 2 s that is 2 % serial and exchanges nothing."""
    right = [1 / (0.02 + 0.98 / n) for n in (1, 2, 4, 8, 16, 32, 64)]
    found = numbers(answer)
    if found is None or len(found) != len(right):
        return not_yet("The answer is a list of seven numbers, for 1, 2, 4, 8, 16, 32 and 64 workers.",
                       "答案是七个数的列表，对应 1、2、4、8、16、32、64 个工作进程。")  # fmt: skip
    if all(is_near(a, b, 1e-3) for a, b in zip(found, right, strict=True)):
        return RIGHT
    return not_yet("Only 98 % of the step is divided by the workers; with 64 of them it is far from 64 times as fast.",
                   "只有 98 % 的时间按工作进程数分摊；用 64 个时远远达不到 64 倍。")  # fmt: skip


def clusters_5(answer: Any) -> Verdict:
    """The seconds between checkpoints that waste least, by Young's approximation."""
    right = math.sqrt(2 * CHECKPOINT_SECONDS * MEAN_SECONDS_TO_FAULT)
    if is_near(answer, right, 0.01):
        return RIGHT
    if is_near(answer, right / 60, 0.01):
        return not_yet("That is right in minutes; the answer is in seconds.", "以分钟计是对的；答案以秒为单位。")
    return not_yet("Add both losses per second, C / t and t / (2 M), set the derivative by t to zero, and solve for t.",
                   "把两种每秒损失 C / t 与 t / (2 M) 相加，令其对 t 的导数为零，再解出 t。")  # fmt: skip
