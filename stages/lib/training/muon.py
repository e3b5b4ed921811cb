"""Muon: momentum for the weights of convolutions, made orthogonal before each step.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon. PyTorch's own takes matrices alone, and computes in bf16 also on a CPU that
has to emulate it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the published polynomial, which is steep at 0: few iterations will do
ITERATIONS = 3
TINY = 1e-12  # keeps a weight that is all zeros from becoming NaN


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix (M, N) with the singular vectors of `matrix` and singular values of about 1.

    Args:
        dtype: To compute in; the result is in that of `matrix`.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide.to(dtype)
    x = x / (x.norm() + 1e-7)  # no singular value above 1
    for _ in range(ITERATIONS):  # of Newton-Schulz
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    result: Tensor = (x if wide is matrix else x.T).to(matrix.dtype)
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum made orthogonal, for weights (out_channels, ...), which count as matrices of that many rows.

    Every weight keeps the norm that it came with, and `lr` is relative to it. Batch normalization undoes the scale of
    the convolution before it, so free norms would only grow, and each step would change the network less and less.
    """

    def __init__(self, weights: Sequence[Tensor], *, lr: float, momentum: float, dtype: torch.dtype) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})
        self.dtype = dtype
        self._norms = {weight: weight.detach().norm() for weight in weights}

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # PyTorch's own also take a closure
        """Change the weights by their gradients."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                buffer = state["momentum_buffer"].mul_(momentum).add_(weight.grad)
                update = orthogonalize(weight.grad.add(buffer, alpha=momentum).flatten(1), self.dtype)
                norm = self._norms[weight]
                # The norm of the update is about the root of the shorter side.
                weight.sub_(update.view_as(weight) * (norm * (lr / math.sqrt(min(update.shape)))))
                weight.mul_(norm / (weight.norm() + TINY))
