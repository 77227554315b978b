"""Muon: the momentum of a matrix, made orthogonal, is its update.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/;
the size of an update: Liu et al. 2025, "Muon is Scalable for LLM Training", https://arxiv.org/abs/2502.16982, section 2.2.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from onehour.training.parallel import num_processes, part_like, share_out, whole

# a x + b x^3 + c x^5 for each of three steps: applied one after the other they bring every x from 0.02 to 1 as close to 1
# as three such polynomials can, to between 0.907 and 1.093 (Amsel et al. 2025, "The Polar Express",
# https://arxiv.org/abs/2505.16932, theorem 3.1: each step's is the best for what the one before it leaves).
POLYNOMIALS = ((7.7110, -22.1138, 16.2487), (3.2153, -2.4112, 0.5013), (2.2183, -1.5940, 0.4107))
MOST_NUMBERS = 2**24  # of matrices that are made orthogonal at once: small ones go together, and memory stays bounded


class Muon(Optimizer):
    """Muon for `matrices`, and AdamW for `others`, which are groups of parameters, in one optimizer.

    An update has the root mean square of an AdamW update, about 0.2, and so one learning rate serves both; so does the
    first beta, which is Muon's momentum. `dtype` is the type in which matrices are multiplied. How a
    batch of them is rounded may depend on their number, which depends on the number of workers: not so `one_by_one`.
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[dict[str, Any]], betas: tuple[float, float], lr: float,
        weight_decay: float, dtype: torch.dtype, one_by_one: bool,
    ) -> None:  # fmt: skip
        self.adamw = AdamW(others, lr=lr, betas=betas, fused=True)
        super().__init__([{"params": matrices, "lr": lr, "weight_decay": weight_decay}], {})
        self.matrices, self.momentum, self.dtype = self.param_groups[0], betas[0], dtype
        self.orthogonal = each_alone if one_by_one else orthogonal
        self.param_groups += self.adamw.param_groups  # the same objects: what is set in one is set in the other
        self.state = self.adamw.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change all parameters by their gradients."""
        self.adamw.step()
        for parameters in alike(self.matrices["params"]):
            self.step_together(parameters, self.matrices["lr"], self.matrices["weight_decay"])

    def step_together(self, parameters: list[Tensor], lr: float, weight_decay: float) -> None:
        """A step of matrices of one shape.

        Each worker makes a share of them orthogonal and gets the others' results. That is less work, and all have the
        same bits also where their processors add up in another order.
        """
        directions = torch.stack([whole(self.direction(p)) for p in parameters])
        updates = share_out(lambda part: self.orthogonal(part.to(self.dtype)).type_as(part), directions)
        size = 0.2 * max(parameters[0].shape) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - lr * weight_decay).add_(part_like(parameter, update), alpha=-lr * size)

    def direction(self, parameter: Tensor) -> Tensor:
        """The gradient, smoothed over the last steps; one step ahead, as Nesterov's momentum is."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - self.momentum)
        return parameter.grad.lerp(state["momentum"], self.momentum)


def alike(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """The matrices in groups of one shape: up to MOST_NUMBERS, but at least one matrix for each worker."""
    groups: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        groups[matrix.shape].append(matrix)
    for shape, group in groups.items():
        most = max(num_processes(), MOST_NUMBERS // shape.numel())
        yield from (group[i : i + most] for i in range(0, len(group), most))


def each_alone(matrices: Tensor) -> Tensor:
    """`orthogonal`, one matrix after the other."""
    return torch.cat([orthogonal(matrix) for matrix in matrices.split(1)])


def orthogonal(matrices: Tensor) -> Tensor:
    """The matrices (N, R, C) with the singular vectors that they had and singular values near 1.

    A polynomial x <- a x + b x x' x + c x x' x x' x acts on the singular values alone. They have to begin at most at 1:
    the norm of x x' is the root of the sum of their fourth powers, so its root is above the largest. That bound is
    closer than the norm of x, and x x' has to be computed anyway.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-30)  # so that fourth powers do not overflow
    gram = x @ x.mT
    bound = 1.02 * gram.norm(dim=(1, 2), keepdim=True) + 1e-30  # with room for the rounding of bfloat16
    x, gram = x / bound.sqrt(), gram / bound
    for step, (a, b, c) in enumerate(POLYNOMIALS):
        if step:
            gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
