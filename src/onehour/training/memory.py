"""How much memory a training step takes, counted before it runs."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from onehour.config import TrainConfig
from onehour.data.arrow import Rows
from onehour.recipe import Batch, Recipe
from onehour.training.device import autocast
from onehour.training.layers import checkpoint_layers, layers_of
from onehour.training.loop import sample_losses
from onehour.training.optim import layer_matrices


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker."""

    num_parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What forward keeps for backward, for one micro-batch."""
    num_trained: int | None = None
    """Parameters that are not frozen; None: all of them."""

    @property
    def total(self) -> int:
        """The sum; Python and torch themselves take some 300 MB more."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def shared_by(self, workers: int) -> "Memory":
        """The memory of each worker that has a part of the model; the whole layer that computes is not counted."""
        parts = {name: getattr(self, name) // workers for name in ("weights", "gradients", "optimizer")}
        return replace(self, **parts)


def estimate_memory(recipe: Recipe, model: nn.Module, config: TrainConfig, rows: Rows, micro_batch_size: int) -> Memory:
    """The memory of a training step, from the forward pass of one sample: activations grow with the micro-batch.

    A mistake in the recipe's model or loss shows here, on the CPU and before any worker starts.
    """
    with autocast(torch.device("cpu"), config.precision):
        kept = kept_with_checkpointing if config.activation_checkpointing else kept_for_backward
        activations = kept(recipe, model, rows[[0]]) * micro_batch_size
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.numel() * p.element_size() for p in trained)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    num_parameters, num_trained = sum(p.numel() for p in model.parameters()), sum(p.numel() for p in trained)
    optimizer = moments_of(model, config, gradients)
    return Memory(num_parameters, weights, gradients, optimizer, activations, num_trained)


def moments_of(model: nn.Module, config: TrainConfig, weights: int) -> int:
    """Bytes that the optimizer keeps beside `weights` bytes that are trained."""
    if config.optimizer == "muon":  # one moment of the layers' matrices, two of the rest
        return 2 * weights - sum(p.numel() * p.element_size() for p in layer_matrices(model))
    return weights * (2 if config.optimizer == "adamw" else bool(config.momentum))


def kept_for_backward(recipe: Recipe, model: nn.Module, batch: Batch) -> int:
    """Bytes of the tensors that autograd keeps during forward; the model's own parameters do not count."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor.detach()  # what an operation puts out, and keeps, would otherwise keep the operation: for ever

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = sample_losses(recipe, model, batch)  # alive until all is counted, so that no address is used twice
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own and losses.requires_grad)


def kept_with_checkpointing(recipe: Recipe, model: nn.Module, batch: Batch) -> int:
    """The same where layers, which are taken to be alike, keep their input, and one of them all that it needs.

    The layers of `model` do so from then on.
    """
    all_of_it, inputs = kept_for_backward(recipe, model, batch), [0]

    def count(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[0] += arguments[0].nbytes

    checkpoint_layers(model)
    hooks = [layer.register_forward_pre_hook(count) for layer in layers_of(model)]
    outside = kept_for_backward(recipe, model, batch)
    for hook in hooks:
        hook.remove()
    return outside + inputs[0] + (all_of_it - outside) // len(hooks)
