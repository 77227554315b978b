"""The checks of chapter 11."""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from onehour.course.check.read import call, has_numbers, is_close, is_near, numbers, raised
from onehour.course.check.verdict import RIGHT, Verdict, not_yet
from onehour.models.gpt import GPT, GPTConfig

LOGITS = (2.0, 1.0, 0.0, -1.0)
LLAMA_7B = GPTConfig(
    vocab_size=32_000, context=2048, num_layers=32, width=4096, num_heads=32, num_kv_heads=32, hidden_width=11_008
)
LLAMA_3_8B = GPTConfig(
    vocab_size=128_256, context=8192, num_layers=32, width=4096, num_heads=32, num_kv_heads=8, hidden_width=14_336
)


def language_model_1(answer: Any) -> Verdict:
    """Bits per byte of a loss of 2.5 nats per token, where a byte is 0.4 tokens."""
    right = 2.5 / math.log(2) * 0.4
    if is_near(answer, right, 1e-3):
        return RIGHT
    if is_near(answer, 2.5 / math.log(2) / 0.4, 1e-3):
        return not_yet("A token covers 2.5 bytes: is a byte dearer or cheaper than a token?",
                       "一个词元占 2.5 个字节：一个字节的代价比一个词元高还是低？")  # fmt: skip
    return not_yet("Turn nats into bits first (one bit is log(2) nats), then tokens into bytes; the answer is a number.",
                   "先把奈特换成比特（1 比特是 log(2) 奈特），再把词元换成字节；答案是一个数。")  # fmt: skip


def language_model_2(answer: Any) -> Verdict:
    """The probabilities of LOGITS at temperature 0.5 among the 2 likeliest."""
    first = math.exp(2.0 / 0.5) / (math.exp(2.0 / 0.5) + math.exp(1.0 / 0.5))
    right = torch.tensor([first, 1 - first, 0.0, 0.0])
    found = torch.tensor(numbers(answer) or [])
    if found.shape != right.shape:
        return not_yet("The answer is four probabilities, one for each token: a tensor, an array or a list.",
                       "答案是四个概率，每个词元一个：张量、数组或列表。")  # fmt: skip
    if torch.allclose(found, right, atol=1e-3):
        return RIGHT
    if found[2:].abs().max() > 1e-6:
        return not_yet("With top_k = 2 the two least likely tokens can no longer be drawn.",
                       "top_k = 2 时，最不可能的两个词元不再会被抽到。")  # fmt: skip
    return not_yet("Divide the logits by the temperature before the softmax; what is left adds up to 1.",
                   "先把 logits 除以温度，再做 softmax；留下的概率之和为 1。")  # fmt: skip


def language_model_3(answer: Any) -> Verdict:
    """Bytes of the key-value cache of LLAMA_7B in bfloat16, for 8 sequences of 2,048 tokens."""
    config = LLAMA_7B
    of_a_token = 2 * config.num_layers * config.num_kv_heads * config.head_width
    right = of_a_token * 2 * 8 * 2048
    if is_near(answer, right, 1e-9):
        return RIGHT
    if is_near(answer, right / 2, 1e-9):
        return not_yet("Half of it. A layer keeps keys and values, and a bfloat16 has two bytes.",
                       "只有一半。每层既保存键也保存值，而一个 bfloat16 占两个字节。")  # fmt: skip
    if is_near(answer, right / 8, 1e-9):
        return not_yet("That is one sequence; there are 8.", "这是一个序列的；一共有 8 个。")
    return not_yet("Multiply: keys and values, layers, key-value heads, numbers of a head, bytes, tokens, sequences.",
                   "相乘：键和值、层数、键值头数、每个头的数字个数、字节数、词元数、序列数。")  # fmt: skip


def language_model_4(answer: Any) -> Verdict:
    """The number of parameters of LLAMA_3_8B."""
    if isinstance(answer, GPTConfig):
        return not_yet("That is a configuration; the answer is the number of its parameters.",
                       "这是一个配置；答案是它的参数个数。")  # fmt: skip
    if is_near(answer, num_parameters(LLAMA_3_8B), 1e-9):
        return RIGHT
    if is_near(answer, num_parameters(GPTConfig(**(vars(LLAMA_3_8B) | {"num_kv_heads": 32}))), 1e-9):
        return not_yet("Here 32 query heads share 8 key-value heads: that makes k_proj and v_proj smaller.",
                       "这里 32 个查询头共用 8 个键值头：k_proj 和 v_proj 因此更小。")  # fmt: skip
    return not_yet("Build GPTConfig with the six sizes, the GPT on the meta device, and count; the answer is a number.",
                   "用这些尺寸构造 GPTConfig，在 meta 设备上构造 GPT，再计数；答案是一个数。")  # fmt: skip


@cache
def num_parameters(config: GPTConfig) -> int:
    """The parameters of a GPT of this shape; on the meta device it takes no memory."""
    with torch.device("meta"):
        return sum(p.numel() for p in GPT(config).parameters())


def language_model_5(answer: Any) -> Verdict:
    """A function of logits (V,) and p that gives the probabilities (V,) of top-p sampling."""
    if not callable(answer):
        return not_yet("Write a function top_p(logits, p) and check it without calling it: answer = top_p.",
                       "写一个函数 top_p(logits, p)，交上函数本身而不要调用它：answer = top_p。")  # fmt: skip
    random = torch.Generator().manual_seed(123)
    for p in (0.3, 0.5, 0.9, 0.99):
        logits = torch.randn(50, generator=random) * 3
        verdict = of_top_p(call(answer, logits.clone(), p), nucleus(logits, p), p)
        if not verdict:
            return verdict
    return RIGHT


def of_top_p(found: Any, right: Tensor, p: float) -> Verdict:
    """The verdict on what a function gives where the probabilities `right` (V,) are wanted."""
    if isinstance(found, Exception):
        return raised(found)
    if not has_numbers(found) or found.shape != right.shape:
        return not_yet("The function gives something else than a tensor of the logits' shape.",
                       "函数返回的不是与 logits 同形状的张量。")  # fmt: skip
    if not is_near(found.sum(), 1.0, 1e-4):
        return not_yet("What is left must add up to 1 again.", "留下的概率之和必须重新等于 1。")
    kept, wanted = int((found > 0).sum()), int((right > 0).sum())
    if not torch.equal((found > 0).cpu(), right > 0):
        return not_yet(f"For p = {p} it keeps {kept} of 50 tokens, and the fewest whose sum reaches p are {wanted}.",
                       f"p = {p} 时保留了 50 个词元中的 {kept} 个，而总和达到 p 的最少个数是 {wanted}。")  # fmt: skip
    if not is_close(found, right):
        return not_yet("The right tokens are left, but their probabilities should keep their ratios.",
                       "留下的词元对了，但它们的概率之间的比例应保持不变。")  # fmt: skip
    return RIGHT


def nucleus(logits: Tensor, p: float) -> Tensor:
    """Probabilities (V,) of the fewest likeliest tokens whose sum reaches p, scaled to add up to 1; 0 for the others."""
    likeliest = sorted(range(len(logits)), key=lambda i: float(logits[i]), reverse=True)
    probabilities = logits.softmax(dim=0)
    kept, total = torch.zeros_like(logits), 0.0
    for i in likeliest:
        kept[i] = probabilities[i]
        total += float(probabilities[i])
        if total >= p:
            break
    return kept / kept.sum()
