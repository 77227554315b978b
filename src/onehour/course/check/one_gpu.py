"""The checks of chapter 7, One GPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onehour.course.check.read import call, is_near, number, numbers, raised
from onehour.course.check.verdict import RIGHT, Verdict, not_yet
from onehour.models.gpt import GPT, GPTConfig


def one_gpu_1(answer: Any) -> Verdict:
    """Bytes of weights, gradients and AdamW's moments of a GPT of depth 12 in float32."""
    given = number(answer)
    if given is None:
        return not_yet("The answer is one number, of bytes.", "答案应是一个数：字节数。")
    with torch.device("meta"):
        model = GPT(GPTConfig.from_depth(12))
    num_parameters = sum(p.numel() for p in model.parameters())
    if given == 16 * num_parameters:
        return RIGHT
    if given / num_parameters in (4, 8, 12):  # bytes: weights, gradients too, one moment too
        return not_yet(
            "Something is missing: for each weight there is also a gradient, and AdamW keeps two moments.",
            "还少了些什么：每个权重还有一个梯度，AdamW 还为它保存两个矩。",
        )
    return not_yet(
        "Count the parameters with numel(), then the float32 numbers that each of them brings along.",
        "先用 numel() 数出参数个数，再想想每个参数总共带来几个 float32 数。",
    )


def one_gpu_2(answer: Any) -> Verdict:
    """The largest micro-batch that fits into 24 GB and divides 120 samples, and how many of them there are."""
    fits = int((24 - 19.2) / 0.35)
    size = max(size for size in range(1, fits + 1) if 120 % size == 0)
    given = numbers(answer)
    if given is None or len(given) != 2:
        return not_yet("The answer is a pair: (size, number).", "答案应是一对数：(大小, 个数)。")
    if given == [size, 120 // size]:
        return RIGHT
    if given[0] * given[1] != 120:
        return not_yet("Size times number must be the global batch.", "大小乘以个数必须等于全局批量。")
    if given[0] > fits:
        return not_yet("That many activations do not fit beside the rest.", "这么多激活值放不进剩下的显存。")
    return not_yet("That fits, but a larger one fits, too.", "放得下，但还有更大的也放得下。")


def one_gpu_3(answer: Any) -> Verdict:
    """A function (model, batches) -> losses that keeps no graph."""
    if not callable(answer):
        return not_yet("The answer is a function of model and batches.", "答案应是一个函数，参数是 model 和 batches。")
    model, x, y = small_problem()
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    with torch.no_grad():
        right = [cross_entropy(model(x), y).item() for x, y in batches]
    given = call(lambda: list(answer(model, batches)))
    if isinstance(given, Exception):
        return raised(given)
    losses = numbers(given)
    if losses is None or len(losses) != 2 or not all(map(is_near, losses, right, (1e-5, 1e-5))):
        return not_yet("It must return one loss for each batch, in order.", "它应按顺序为每个批量返回一个损失。")
    if any(isinstance(loss, Tensor) and loss.requires_grad for loss in given):
        return not_yet(
            "The losses are right, and each still holds its graph: how does a number leave a tensor?",
            "损失是对的，但每个都还抓着自己的计算图：怎样从张量里只取出数？",
        )
    return RIGHT


def one_gpu_4(answer: Any) -> Verdict:
    """A function (model, x, y, size) that leaves the gradient of the mean loss, in parts of at most `size` samples."""
    if not callable(answer):
        return not_yet(
            "The answer is a function of model, x, y and size.", "答案应是一个函数，参数是 model、x、y 和 size。"
        )
    model, x, y = small_problem()
    right = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    sizes: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    returned = call(answer, model, x, y, 4)
    if isinstance(returned, Exception):
        return raised(returned)
    if not sizes or max(sizes) > 4:
        return not_yet(
            "More than `size` samples went through the model at once, or none.",
            "一次通过模型的样本多于 size，或者一个也没有。",
        )
    if any(p.grad is None for p in model.parameters()):
        return not_yet("There is no gradient: call backward on each part.", "没有梯度：要对每一部分调用 backward。")
    if all(torch.allclose(p.grad, g, atol=1e-6) for p, g in zip(model.parameters(), right, strict=True)):  # type: ignore[arg-type]
        return RIGHT
    return not_yet(
        "The gradient is not that of the mean over all samples: ten samples in parts of four leave a smaller last part.",
        "这不是全部样本平均损失的梯度：十个样本按四个一份，最后一份较小。",
    )


def small_problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of three inputs and two classes, and ten samples: x (10, 3), y (10,)."""
    random = torch.Generator().manual_seed(7)
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 3, generator=random))
        model.bias.zero_()
    return model, torch.randn(10, 3, generator=random), torch.randint(2, (10,), generator=random)
