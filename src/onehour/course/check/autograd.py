"""The exercises of chapter 2."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from onehour.course.check.read import call, has_numbers, is_close, is_near, no_tensor, number, numbers
from onehour.course.check.verdict import RIGHT, Verdict, not_yet


def autograd_1(answer: Any) -> Verdict:
    """The derivative of x³ - 2x at x = 2, as a number or a tensor of one."""
    x = torch.tensor(2.0, requires_grad=True)
    (right,) = torch.autograd.grad(x**3 - 2 * x, x)
    if isinstance(answer, tuple):
        return not_yet("`grad` returns a tuple, one gradient for each input.", "`grad` 返回元组，每个输入一个梯度。")
    if number(answer) is None:
        return not_yet("the answer should be one number.", "答案应当是一个数。")
    if is_near(answer, right.item(), 1e-4):
        return RIGHT
    if is_near(answer, (x**3 - 2 * x).item(), 1e-4):
        return not_yet("this is the value of the function.", "这是函数的值。")
    return not_yet(
        "compute y from x, call y.backward(), and look at x.grad.", "由 x 算出 y，调用 y.backward()，再看 x.grad。"
    )


def autograd_2(answer: Any) -> Verdict:
    """A function of f and x, (n,): the gradient of f at x by central differences, (n,)."""
    functions: list[Callable[[Tensor], Tensor]] = [lambda x: (x**3).sum(), lambda x: x.exp().prod() + x[0] * x[-1]]
    for f in functions:
        x = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
        (right,) = torch.autograd.grad(f(x), x)
        given = call(answer, f, x.detach().clone())
        if not has_numbers(given):
            return no_tensor(given)
        if given.shape != right.shape:
            return not_yet(
                f"for x of shape (3,) the result has shape {tuple(given.shape)}.",
                f"当 x 的形状是 (3,) 时，结果的形状是 {tuple(given.shape)}。",
            )
        if not torch.allclose(given.detach().double(), right, rtol=1e-5, atol=1e-7):
            return not_yet(
                "move one entry of x at a time by h to both sides, leave the others where they are, and divide by 2h.",
                "每次把 x 的一个元素向两边各移动 h，其余元素保持不动，再除以 2h。",
            )
    return RIGHT


def autograd_3(answer: Any) -> Verdict:
    """w and b after 20 steps of gradient descent on the mean loss of four points, from zeros, learning rate 1."""
    given = numbers(answer)
    if given is None or len(given) != 2:
        return not_yet("the answer should be a pair: w and b.", "答案应当是一对数：w 和 b。")
    if is_close(given, descend(zeroing=True)):
        return RIGHT
    if is_close(given, descend(zeroing=False)):
        return not_yet("the gradients of all steps so far have added up.", "之前各步的梯度累加在了一起。")
    return not_yet(
        "20 times: the mean loss of the four points, backward, w and b minus 1.0 times their gradients, gradients to zero.",
        "重复 20 次：四个点的平均损失、backward、w 和 b 减去 1.0 乘各自的梯度、梯度清零。",
    )


def autograd_4(answer: Any) -> Verdict:
    """A function: x (n,) -> x rounded, whose gradient is that of x itself."""
    x = torch.tensor([0.2, 0.7, -1.6, 3.4], requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    given = call(answer, x)
    if not has_numbers(given):
        return no_tensor(given)
    if not is_close(given, x.detach().round()):
        return not_yet("the values should be those of x.round().", "得到的值应当与 x.round() 相同。")
    if not given.requires_grad:
        return not_yet("the result has no graph back to x.", "结果没有通向 x 的计算图。")
    gradient = call(lambda: torch.autograd.grad((given * weights).sum(), x)[0])
    if not (has_numbers(gradient) and is_close(gradient, weights)):
        return not_yet(
            "no gradient comes through: write the result as x plus something, and detach that something.",
            "梯度没有传过来：把结果写成 x 加上一个量，并对这个量用 detach。",
        )
    return RIGHT


def descend(zeroing: bool) -> Tensor:
    """What exercise 3 asks for, (2,), with or without zeroing the gradients."""
    x, y = torch.tensor([-2.0, -1.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    wb = torch.zeros(2, requires_grad=True)
    for _ in range(20):
        binary_cross_entropy_with_logits(wb[0] * x + wb[1], y).backward()
        with torch.no_grad():
            wb -= 1.0 * wb.grad  # type: ignore[operator]
        if zeroing:
            wb.grad = None
    return wb.detach()
