"""The checks of chapter 3, Networks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from onehour.course.check.read import call, is_close, is_near, number, raised, short
from onehour.course.check.verdict import RIGHT, Verdict, not_yet
from onehour.models.mlp import MLP


def networks_1(answer: Any) -> Verdict:
    """The number of parameters of 784-128-64-10."""
    given = number(answer)
    if given is None:
        return not_yet("the answer is a whole number.", "答案是一个整数。")
    model = MLP(784, [128, 64], 10)
    right = sum(parameter.numel() for parameter in model.parameters())
    if given == right:
        return RIGHT
    if given == sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2):
        return not_yet("these are the weights; each output also has a bias.", "这只是权重；每个输出还有一个偏置。")
    return not_yet(
        "a layer has inputs × outputs weights and a bias for each output; there are three layers.",
        "一层有 输入数 × 输出数 个权重，每个输出还有一个偏置；这里共有三层。",
    )


def networks_2(answer: Any) -> Verdict:
    """A network 4-8-3 with tanh."""
    if not isinstance(answer, nn.Module):
        return not_yet(
            "the answer is an nn.Module, such as nn.Sequential(...).", "答案应是 nn.Module，例如 nn.Sequential(...)。"
        )
    x = torch.linspace(-3, 3, 20).reshape(5, 4)
    given = call(answer, x)  # before its parameters are looked at: those of lazy layers appear with the first call
    if isinstance(given, Exception):
        return not_yet(
            f"for a batch of shape (5, 4) it raised {short(given)}", f"输入形状为 (5, 4) 的批量时抛出了 {short(given)}"
        )
    shapes = [tuple(parameter.shape) for parameter in answer.parameters()]
    if sorted(sorted(shape) for shape in shapes) != [[3], [3, 8], [4, 8], [8]]:
        return not_yet(
            f"its parameters have the shapes {shapes}; two linear layers, 4 to 8 and 8 to 3, have others.",
            f"它的参数形状是 {shapes}；4 到 8 和 8 到 3 两个线性层的参数形状不是这样。",
        )
    of_size = {parameter.numel(): parameter for parameter in answer.parameters()}
    first, last = (each if len(each) == rows else each.T for each, rows in ((of_size[32], 8), (of_size[24], 3)))
    right = linear(linear(x, first, of_size[8]).tanh(), last, of_size[3])
    if is_close(given, right):
        return RIGHT
    if any(is_close(given, wrong) for wrong in (right.softmax(1), right.log_softmax(1))):
        return not_yet(
            "logits are what the last linear layer gives, without a softmax.",
            "logits 是最后一个线性层的输出，不经过 softmax。",
        )
    return not_yet(
        "the layers are right, but what comes out is not linear, tanh, linear.",
        "各层的形状对了，但输出不是“线性、tanh、线性”的结果。",
    )


def networks_3(answer: Any) -> Verdict:
    """The lowest cross-entropy of probabilities that are taken for logits."""
    if number(answer) is None:
        return not_yet("the answer is a number.", "答案是一个数。")
    right = cross_entropy(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0])).item()
    if is_near(answer, right, 1e-3):
        return RIGHT
    if is_near(answer, 0.0, 2e-3):
        return not_yet(
            "cross_entropy applies a softmax of its own; what does it make of a probability of 1?",
            "cross_entropy 自己还会做一次 softmax；概率 1 经过它会变成什么？",
        )
    return not_yet(
        "the best that a softmax can give is 1 for the right class and 0 for the others; what loss do these have as logits?",
        "softmax 最好的输出是正确类别为 1、其余为 0；把它们当作 logits，损失是多少？",
    )


def networks_4(answer: Any) -> Verdict:
    """Cross-entropy that stays finite."""
    if not callable(answer):
        return not_yet("the answer is a function of logits and labels.", "答案是一个以 logits 和 labels 为参数的函数。")
    generator = torch.Generator().manual_seed(123)
    logits, labels = torch.randn(6, 4, generator=generator), torch.tensor([0, 3, 1, 2, 2, 0])
    given, right = call(answer, logits.clone(), labels), cross_entropy(logits, labels)
    if isinstance(given, Exception):
        return raised(given)
    if not is_close(given, right):
        summed = is_close(given, cross_entropy(logits, labels, reduction="sum"))
        each = is_close(given, cross_entropy(logits, labels, reduction="none"))
        if summed or each:
            return not_yet("return the mean over the samples.", "请返回各样本损失的均值。")
        return not_yet(
            f"for one batch the loss is {right.item():.4f}; the function gave {value_of(given)}.",
            f"对某个批量，损失应为 {right.item():.4f}；函数给出的是 {value_of(given)}。",
        )
    large = 1000 * logits
    if is_close(call(answer, large.clone(), labels), cross_entropy(large, labels)):
        return RIGHT
    return not_yet(
        "right for small logits, but not for logits of 1,000: subtract the largest of a row before exp, or use logsumexp.",
        "logits 较小时正确，但到 1000 就不对了：求 exp 之前先减去每行的最大值，或者用 logsumexp。",
    )


def networks_5(answer: Any) -> Verdict:
    """A step of Adam."""
    if not callable(answer):
        return not_yet(
            "the answer is a function of w, g, m, s, t, lr.", "答案是一个以 w, g, m, s, t, lr 为参数的函数。"
        )
    generator = torch.Generator().manual_seed(123)
    theirs = nn.Parameter(torch.randn(3, generator=generator))
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    w, m, s = theirs.detach().clone(), torch.zeros(3), torch.zeros(3)
    for t in range(1, 6):
        g = torch.randn(3, generator=generator)
        theirs.grad = g.clone()
        optimizer.step()
        given = call(answer, w, g, m, s, t, 0.1)
        if not (
            isinstance(given, tuple | list) and len(given) == 3 and all(isinstance(each, Tensor) for each in given)
        ):
            return not_yet(
                f"it must return three tensors w, m, s; it gave {short(given)}.",
                f"它应返回 w, m, s 三个张量；得到的是 {short(given)}。",
            )
        w, m, s = given
        if not is_close(w, theirs.detach()):
            return not_yet(
                f"after step {t} the weights differ from those of torch.optim.Adam; "
                + (
                    "are m and s divided by 1 − βᵗ?"
                    if t == 1
                    else "are the new m and s returned, and t used as the power?"
                ),
                f"第 {t} 步之后权重与 torch.optim.Adam 不同；"
                + ("m 和 s 除以 1 − βᵗ 了吗？" if t == 1 else "返回的是新的 m 和 s 吗？t 用作指数了吗？"),
            )
    return RIGHT


def value_of(given: Any) -> str:
    """A number with four digits; of anything else its kind."""
    value = number(given)
    return short(given) if value is None else f"{value:.4f}"
