"""The checks of chapter 5, the training loop."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onehour.config import TrainConfig
from onehour.course.check.read import call, is_near, number, numbers, raised
from onehour.course.check.verdict import RIGHT, Verdict, not_yet
from onehour.training.early_stopping import should_stop
from onehour.training.optim import learning_rate_at


def training_1(answer: Any) -> Verdict:
    """Steps of 24 epochs of 1,437 images in batches of 60, with and without drop_last."""
    values = numbers(answer)
    if values is None or len(values) != 2:
        return not_yet("Answer with two numbers in parentheses.", "请回答括号里的两个数。")
    full, left_over = divmod(1437, 60)
    right = [24 * full, 24 * (full + (left_over > 0))]
    if values == right:
        return RIGHT
    if values == right[::-1]:
        return not_yet("Which of the two leaves batches out?", "两种设置中，哪一种会丢掉批量？")
    return not_yet(
        "How many batches has one epoch, and is the last one full? Then count all epochs.",
        "一个轮次有几个批量？最后一个满吗？然后再算所有轮次。",
    )


def training_2(answer: Any) -> Verdict:
    """The accuracy over batches of different sizes."""
    if number(answer) is None:
        return not_yet("Answer with one number.", "请回答一个数。")
    right, sizes = [57, 54, 4], [60, 60, 10]
    if is_near(answer, sum(right) / sum(sizes)):
        return RIGHT
    if is_near(answer, sum(r / s for r, s in zip(right, sizes, strict=True)) / 3, 1e-2):
        return not_yet(
            "That is the mean of three accuracies: it gives an image of the small batch six times the weight.",
            "这是三个准确率的平均值：小批量里的一张图像占了六倍的权重。",
        )
    return not_yet("Right answers of all images, divided by all images.", "用全部答对的图像数除以全部图像数。")


def training_3(answer: Any) -> Verdict:
    """When a training stops at a patience of 3, and which evaluation's weights it keeps; both from 1."""
    losses = [0.90, 0.70, 0.75, 0.60, 0.64, 0.61, 0.63, 0.50]
    values = numbers(answer)
    if values is None or len(values) != 2:
        return not_yet("Answer with two numbers in parentheses.", "请回答括号里的两个数。")
    stops = next(n for n in range(1, 9) if should_stop(losses[:n], patience=3))
    if values[0] != stops:
        return not_yet(
            "The first number: count the evaluations in a row that are no better than the best before them. "
            "A new best begins the count again.",
            "第一个数：数一数连续有几次评估不比之前的最好结果更好；一旦出现新的最好结果，就重新数起。",
        )
    if values[1] != 1 + losses.index(min(losses[:stops])):
        return not_yet(
            "The second number: the lowest loss among the evaluations that took place before it stopped.",
            "第二个数：停止之前实际做过的评估里，损失最低的是哪一次？",
        )
    return RIGHT


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, features: Tensor, labels: Tensor) -> float:
    """What the fourth exercise asks for; features (B, 2), labels (B,)."""
    loss = cross_entropy(model(features), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def two_steps(step: Callable[..., Any]) -> tuple[list[Any], list[Tensor]]:
    """What two calls of `step` return, and all weights (N,) before, between and after them."""
    generator = torch.Generator().manual_seed(123)
    features, labels = torch.randn(6, 2, generator=generator), torch.tensor([0, 1, 0, 1, 1, 0])
    with torch.random.fork_rng(devices=[]):  # the notebook's own random numbers go on as if nothing had happened
        torch.manual_seed(123)
        model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        returned, weights = [], [nn.utils.parameters_to_vector(model.parameters()).detach().clone()]
        for part in (slice(0, 3), slice(3, 6)):
            returned.append(step(model, optimizer, features[part], labels[part]))
            weights.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    return returned, weights


def training_4(answer: Any) -> Verdict:
    """A function that does one optimizer step and returns the loss of the batch."""
    if not callable(answer):
        return not_yet("The answer is the function itself: answer = step.", "答案是函数本身：answer = step。")
    seen = call(two_steps, answer)
    return raised(seen) if isinstance(seen, Exception) else compare_steps(*seen)


def compare_steps(returned: list[Any], weights: list[Tensor]) -> Verdict:
    """The verdict on what `two_steps` saw of a function: what came back, and the weights (N,) at three moments."""
    losses, right = two_steps(one_step)
    if torch.equal(weights[1], weights[0]):
        return not_yet(
            "The weights are as before. Does the optimizer step, and is the gradient still there when it does?",
            "权重没有变化。优化器走了一步吗？那一刻梯度还在吗？",
        )
    if not torch.allclose(weights[1], right[1], atol=1e-6):
        return not_yet(
            "The first step goes somewhere else: the mean cross-entropy of the batch, one backward, one step.",
            "第一步走到了别处：应为整个批量的平均交叉熵、一次 backward、一次 step。",
        )
    if not torch.allclose(weights[2], right[2], atol=1e-6):
        return not_yet(
            "The first step is right, the second is not: what is left in .grad from the first?",
            "第一步对，第二步不对：第一步在 .grad 里留下了什么？",
        )
    if not all(map(is_near, returned, losses)):
        return not_yet(
            "The weights are right. Return the loss of the batch, too, from before the update.",
            "权重是对的。还请返回这个批量在更新之前的损失。",
        )
    return RIGHT


def training_5(answer: Any) -> Verdict:
    """A learning rate that warms up for 10 of 100 steps, and falls along half a cosine over the others."""
    if not callable(answer):
        return not_yet("The answer is the function itself: answer = rate.", "答案是函数本身：answer = rate。")
    rates = call(lambda: [number(answer(step)) for step in range(100)])
    if isinstance(rates, Exception):
        return raised(rates)
    config = TrainConfig(learning_rate=0.1, warmup_steps=10, schedule="cosine")
    for step, rate in enumerate(rates):
        right = learning_rate_at(step, 100, config)
        if rate is None:
            return not_yet(f"At step {step} it returns no number.", f"在第 {step} 步，返回的不是一个数。")
        if not is_near(rate, right):
            return not_yet(
                f"Step {step} gives {rate:.4f}. "
                + ("The warm-up begins at 0.01, not at 0." if step < 10 else "How many of the 90 steps are done here?"),
                f"第 {step} 步得到 {rate:.4f}。"
                + ("预热从 0.01 开始，而不是从 0 开始。" if step < 10 else "到这里，90 步里已经走完了几步？"),
            )
    return RIGHT
