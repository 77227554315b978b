"""How much each token reads from each earlier one, in a trained GPT."""

from collections.abc import Sequence

import torch
from IPython.display import SVG
from torch import Tensor, nn

from onehour.course.pictures.style import as_svg, new_figure
from onehour.course.words import say
from onehour.models.gpt import GPT, Attention, Rotary, rotate


@torch.no_grad()
def weights(model: GPT, tokens: Tensor) -> Tensor:
    """The attention weights of integer tokens (T,), from the model's own queries and keys: (layers, heads, T, T).

    Row i holds what token i reads from each token j: it sums to 1, and is 0 where j comes after i.
    """
    found: list[Tensor] = []

    def look(attention: nn.Module, arguments: tuple[Tensor, Rotary, None, int, None]) -> None:
        assert isinstance(attention, Attention)
        found.append(weights_of(attention, arguments[0], arguments[1]))

    hooks = [module.register_forward_pre_hook(look) for module in model.modules() if isinstance(module, Attention)]
    model(tokens[None])
    for hook in hooks:
        hook.remove()
    return torch.stack(found)


def weights_of(attention: Attention, x: Tensor, rotary: Rotary) -> Tensor:
    """The weights of one layer whose input is x (1, T, C): (heads, T, T)."""
    q = rotate(attention.split_heads(attention.q_proj(x)), *rotary)[0]
    k = rotate(attention.split_heads(attention.k_proj(x)), *rotary)[0]
    k = k.repeat_interleave(q.shape[0] // k.shape[0], dim=0)  # several query heads share one key head
    scores = q @ k.transpose(1, 2) / attention.head_width**0.5
    later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    found: Tensor = scores.masked_fill(later, -torch.inf).softmax(dim=-1)
    return found


def draw(model: GPT, tokens: Tensor, labels: Sequence[str]) -> SVG:
    """A map of weights for each layer and head; `labels` are the tokens (T,) as text."""
    found = weights(model, tokens)
    num_layers, num_heads = found.shape[:2]
    figure = new_figure(2 * num_heads, 2.2 * num_layers + 0.3)
    grid = figure.subplots(num_layers, num_heads, squeeze=False)
    for layer in range(num_layers):
        for head in range(num_heads):
            axes = grid[layer, head]
            axes.imshow(found[layer, head].sqrt().numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="none")
            axes.set_title(say(f"layer {layer + 1}, head {head + 1}", f"第 {layer + 1} 层，头 {head + 1}"), fontsize=10)
            axes.set_xticks(range(len(labels)), labels, fontsize=5, family="monospace")
            axes.set_yticks(range(len(labels)), labels, fontsize=5, family="monospace")
            axes.tick_params(length=0, pad=1)
    figure.supxlabel(say("read from", "被读取的词元"), fontsize=10)
    figure.supylabel(say("reading token", "正在读取的词元"), fontsize=10)
    return as_svg(figure)
