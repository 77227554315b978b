"""The exercises of chapter 1."""

from typing import Any

import torch

from onehour.course.check.read import call, has_numbers, is_close, no_tensor
from onehour.course.check.verdict import RIGHT, Verdict, not_yet


def tensors_1(answer: Any) -> Verdict:
    """A float32 tensor that counts from 1 to 12 in 3 rows and 4 columns."""
    if not has_numbers(answer):
        return not_yet("the answer should be a tensor.", "答案应当是一个张量。")
    if answer.dtype != torch.float32:
        return not_yet(
            f"its dtype is {answer.dtype}; `arange` of integers gives integers.",
            f"它的 dtype 是 {answer.dtype}；用整数调用 `arange` 得到的是整数。",
        )
    if answer.shape != (3, 4):
        return not_yet(f"its shape is {tuple(answer.shape)}.", f"它的形状是 {tuple(answer.shape)}。")
    if not is_close(answer, torch.arange(1.0, 13.0).reshape(3, 4)):
        return not_yet("the first row should be 1, 2, 3, 4.", "第一行应当是 1、2、3、4。")
    return RIGHT


def tensors_2(answer: Any) -> Verdict:
    """A function: readings (n, m), some of them nan -> the mean of each column over the others, (m,)."""
    readings = torch.tensor([[1.0, torch.nan, 3.0], [2.0, 5.0, torch.nan], [6.0, 7.0, torch.nan], [0.0, 9.0, 4.0]])
    there = ~readings.isnan()
    right = torch.where(there, readings, 0.0).sum(dim=0) / there.sum(dim=0)
    given = call(answer, readings.clone())
    if not has_numbers(given):
        return no_tensor(given)
    if given.shape != right.shape:
        return not_yet(
            f"for readings of shape (4, 3) the result has shape {tuple(given.shape)}; one number a column is wanted.",
            f"对形状 (4, 3) 的读数，结果的形状是 {tuple(given.shape)}；每列要一个数。",
        )
    if not is_close(given, right):
        return not_yet(
            "a column's sum of what is there has to be divided by the number of what is there; "
            "nan times anything, 0 too, is nan.",
            "每一列要用现有读数之和除以现有读数的个数；nan 乘任何数（包括 0）都还是 nan。",
        )
    return RIGHT


def tensors_3(answer: Any) -> Verdict:
    """A function: uint8 images (B, H, W, C) -> float32 in [0, 1], (B, C, H, W)."""
    images = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3) * 2
    right = images.movedim(3, 1).double() / 255
    given = call(answer, images.clone())
    if not has_numbers(given):
        return no_tensor(given)
    if given.dtype != torch.float32:
        return not_yet(f"the result is {given.dtype}, not float32.", f"结果是 {given.dtype}，不是 float32。")
    if given.shape != right.shape:
        return not_yet(
            f"images of shape (2, 4, 5, 3) should become (2, 3, 4, 5), but became {tuple(given.shape)}.",
            f"形状 (2, 4, 5, 3) 的图像应当变成 (2, 3, 4, 5)，却变成了 {tuple(given.shape)}。",
        )
    if is_close(given / 255, right) or is_close(given * 256 / 255, right):
        return not_yet("the largest number, 255, should become 1.", "最大的数 255 应当变成 1。")
    if not is_close(given, right):
        return not_yet(
            "the numbers are not where they should be: `reshape` keeps their order in memory, `permute` moves the axes.",
            "数没有放在该放的位置：`reshape` 保持内存中的顺序，`permute` 才移动轴。",
        )
    return RIGHT


def tensors_4(answer: Any) -> Verdict:
    """A function: points (n, d) and (m, d) -> the distance of each from each, (n, m)."""
    generator = torch.Generator().manual_seed(123)
    a, b = torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator)
    right = (a[:, None, :] - b[None, :, :]).square().sum(dim=2).sqrt()
    given = call(answer, a.clone(), b.clone())
    if not has_numbers(given):
        return no_tensor(given)
    if given.shape != right.shape:
        return not_yet(
            f"points of shapes (5, 3) and (4, 3) should give (5, 4), not {tuple(given.shape)}; "
            "an axis of size 1, made by `None`, is repeated by broadcasting.",
            f"形状 (5, 3) 与 (4, 3) 的点应给出 (5, 4)，而不是 {tuple(given.shape)}；"
            "用 `None` 添一个大小为 1 的轴，广播会重复它。",
        )
    if is_close(given, right.square()):
        return not_yet("these are squares of distances.", "这些是距离的平方。")
    if not is_close(given, right):
        return not_yet(
            "entry [i, j] should be the root of the sum of the squared differences of a[i] and b[j].",
            "元素 [i, j] 应当是 a[i] 与 b[j] 各坐标差的平方和的平方根。",
        )
    return RIGHT
