"""The checks of chapter 6, saving and loading."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Adam

from onehour.course.check.read import call, number, raised
from onehour.course.check.verdict import RIGHT, Verdict, not_yet
from onehour.models.mlp import MLP


def saving_1(answer: Any) -> Verdict:
    """The bytes of a model's weights and of Adam's two moments, in float32."""
    given = number(answer)
    if given is None:
        return not_yet("Answer with one number.", "请回答一个数。")
    weights = sum(parameter.numel() * parameter.element_size() for parameter in MLP(2, [30, 20], 2).parameters())
    if given == 3 * weights:
        return RIGHT
    if given in (weights, 2 * weights):
        return not_yet("The weights, and two moments for each of them.", "要算上权重，还有每个权重的两个矩。")
    return not_yet(
        "Count the weights first. How many bytes has a number in float32, and how many numbers go with each weight?",
        "先数权重的个数。float32 的一个数占几个字节？每个权重要保存几个数？",
    )


def saving_2(answer: Any) -> Verdict:
    """The state dict of MLP(2, [30, 20], 2) under seed 123, with the prefix taken off its names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        model, loaded = MLP(2, [30, 20], 2), MLP(2, [30, 20], 2)
    if not isinstance(answer, dict):
        return not_yet("The answer is a dict from names to tensors.", "答案应是一个从名称到张量的字典。")
    right = model.state_dict()
    if surplus := sorted(map(str, answer.keys() - right.keys())):
        return not_yet(f"The model has nothing called {surplus[0]!r}.", f"模型里没有 {surplus[0]!r} 这个名称。")
    if missing := sorted(right.keys() - answer.keys()):
        return not_yet(f"There is no {missing[0]!r} yet.", f"还缺少 {missing[0]!r}。")
    error = call(loaded.load_state_dict, answer)
    if isinstance(error, Exception):
        return raised(error)
    if not all(torch.equal(tensor, right[name]) for name, tensor in loaded.state_dict().items()):
        return not_yet("The names are right; take the tensors of saved.", "名称对了；张量请用 saved 里的。")
    return RIGHT


def saving_3(answer: Any) -> Verdict:
    """A function from the path of a safetensors file to the shapes of its tensors."""
    if not callable(answer):
        return not_yet("The answer is the function itself: answer = shapes.", "答案是函数本身：answer = shapes。")
    tensors = {"a": torch.zeros(2, 3), "b.c": torch.ones(5, dtype=torch.int64), "d": torch.tensor(1.0)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        shapes = call(lambda: {name: list(shape) for name, shape in answer(path).items()})
    if isinstance(shapes, Exception):
        return raised(shapes)
    right = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if shapes.keys() != right.keys():
        return not_yet(f"The file has the tensors {', '.join(right)}.", f"文件里的张量是 {'、'.join(right)}。")
    for name, shape in right.items():
        if shapes[name] != shape:
            return not_yet(f"The shape of {name} is {shape}.", f"{name} 的形状是 {shape}。")
    return RIGHT


def new_training(seed: int) -> tuple[nn.Module, Adam]:
    """A model with dropout, and its optimizer; `seed` decides the weights."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))
    return model, Adam(model.parameters(), lr=0.05)


def losses_of(model: nn.Module, optimizer: Adam, num_steps: int) -> list[float]:
    """Train on random batches of (8, 1)."""
    losses = []
    for _ in range(num_steps):
        x = torch.rand(8, 1)
        loss = mse_loss(model(x), x.square())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weights_of(model: nn.Module) -> Tensor:
    """All weights, copied: (N,)."""
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def saving_4(answer: Any) -> Verdict:
    """Two functions that take a training's state and put it into a new one."""
    if not (isinstance(answer, tuple | list) and len(answer) == 2 and all(map(callable, answer))):
        return not_yet("The answer is a pair of functions: (capture, restore).", "答案是两个函数：(capture, restore)。")
    with torch.random.fork_rng(devices=[]):  # the notebook's own random numbers go on as if nothing had happened
        verdict = call(compare, *answer)
    return raised(verdict) if isinstance(verdict, Exception) else verdict


def compare(capture: Callable[..., Any], restore: Callable[..., Any]) -> Verdict:
    """Whether three steps after `capture` and three after `restore` have the same losses; if not, what is missing."""
    model, optimizer = new_training(123)
    losses_of(model, optimizer, 3)
    undisturbed = losses_of(model, optimizer, 3)

    model, optimizer = new_training(123)
    losses_of(model, optimizer, 3)
    weights, random = weights_of(model), torch.get_rng_state()
    captured = capture(model, optimizer)
    if losses_of(model, optimizer, 3) != undisturbed:
        return not_yet(
            "The training goes on differently after capture: it should look and change nothing.",
            "capture 之后训练变了样：它应当只读取，不改动任何东西。",
        )
    trained = weights_of(model)
    model, optimizer = new_training(7)
    restore(captured, model, optimizer)
    if torch.equal(weights_of(model), trained):
        return not_yet(
            "The weights that come back are those after the next three steps: a state dict is a view.",
            "恢复出来的是又训练三步之后的权重：状态字典是视图，不是副本。",
        )
    if not torch.equal(weights_of(model), weights):
        return not_yet("The weights do not come back.", "权重没有恢复。")
    if not torch.equal(torch.get_rng_state(), random):
        return not_yet(
            "The weights come back, but batches and dropout draw other numbers.",
            "权重恢复了，但批量和 dropout 抽到了别的随机数。",
        )
    if losses_of(model, optimizer, 3) != undisturbed:
        return not_yet(
            "The first loss is right, those after it are not: what does Adam remember, and is it a copy?",
            "第一个损失对，后面的不对：Adam 记住了什么？保存的是副本吗？",
        )
    return RIGHT
