"""Which weights of a pruned network are zero, more and more of them, and how coarse the others are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RISING_SHARE = 0.5  # of the steps; in the others the network settles at its final sparsity
ROUNDED_SHARE = 0.4  # of the steps, the last ones, in which the forward pass sees rounded weights
RAISE_EVERY = 16  # steps; to find the smallest of millions of weights takes as long as a step or two

Scope = Literal["global", "layer", "lamp"]


@dataclass(frozen=True)
class RisingSparsity:
    """A share of zeros that rises during training, fast at first.

    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    arXiv 1710.01878: the cubic schedule.

    Attributes:
        start: Share of zeros before the first step, in [0, 1).
        end: Share of zeros from half of the steps on; if it is `start`, the zeros stay where they are.
        scope: Where the smallest weights are sought, as in `magnitude_masks`.
        levels: Positive values that weights are rounded to in the last steps, as in `round_weights`; 0 for any.
    """

    start: float
    end: float
    scope: Scope
    levels: int = 0

    def masks_after(self, step: int, num_steps: int, weights: Sequence[Tensor]) -> list[Tensor] | None:
        """Masks that bring about the sparsity due after `step`, None where it stays what it is."""
        sparsity = self.due(step, num_steps)
        return None if sparsity is None else magnitude_masks(weights, sparsity=sparsity, scope=self.scope)

    def due(self, step: int, num_steps: int) -> float | None:
        """The sparsity to bring about after `step`, None where it stays what it is."""
        last = int(RISING_SHARE * num_steps)
        if self.start == self.end or step > last or (step % RAISE_EVERY and step != last):
            return None
        left = 1 - step / last if last else 0.0
        return self.end + (self.start - self.end) * left**3

    def rounded(self, step: int, num_steps: int, weights: Sequence[Tensor]) -> list[Tensor] | None:
        """What the forward pass of `step` sees instead of `weights`, None for themselves."""
        if not self.levels or step < (1 - ROUNDED_SHARE) * num_steps:
            return None
        return [round_weights(weight, levels=self.levels) for weight in weights]


def magnitude_masks(weights: Sequence[Tensor], *, sparsity: float, scope: Scope) -> list[Tensor]:
    """Masks of the shapes of `weights`: 0 for the `sparsity` share of smallest magnitude, 1 for the others.

    Args:
        sparsity: In [0, 1).
        scope: Whether magnitudes compete over all layers (Han et al., "Learning both Weights and Connections for
            Efficient Neural Networks", NeurIPS 2015) or in each, or over all layers once the square of each was divided
            by those of its layer that are no smaller (LAMP: Lee et al., "Layer-adaptive Sparsity for the
            Magnitude-based Pruning", ICLR 2021).
    """
    magnitudes = [weight.detach().abs() for weight in weights]
    if scope == "lamp":
        magnitudes = [_share_of_no_smaller(magnitude) for magnitude in magnitudes]
    groups = [[magnitude] for magnitude in magnitudes] if scope == "layer" else [magnitudes]
    masks = []
    for group in groups:
        values = torch.cat([magnitude.flatten() for magnitude in group])
        num_zeros = round(sparsity * len(values))
        threshold = values.kthvalue(num_zeros).values if num_zeros else -1.0
        masks += [(magnitude > threshold).to(weights[0].dtype) for magnitude in group]
    return masks


def round_weights(weight: Tensor, *, levels: int) -> Tensor:
    """Whole multiples, at most `levels`, of a scale for each output channel of a weight (out_channels, ...)."""
    largest = weight.abs().flatten(1).amax(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
    scale = (largest / levels).view(-1, *[1] * (weight.dim() - 1))
    return (weight / scale).round() * scale


def _share_of_no_smaller(magnitude: Tensor) -> Tensor:
    """Of the sum of squares of all that are no smaller, in (0, 1]."""
    squares, order = magnitude.flatten().double().square().sort(descending=True)
    shares = torch.empty_like(squares)
    shares[order] = squares / squares.cumsum(0).clamp(min=torch.finfo(squares.dtype).tiny)
    return shares.view_as(magnitude)
