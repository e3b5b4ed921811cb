"""Which weights of an unstructured pruned network are zero, all at once or more and more of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RISING_SHARE = 0.5  # of the steps; in the others the network settles at its final sparsity
RAISE_EVERY = 16  # steps; to find the smallest of millions of weights takes as long as a step or two

Scope = Literal["global", "layer"]


@dataclass(frozen=True)
class RisingSparsity:
    """A share of zeros that rises during training, fast at first.

    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    arXiv 1710.01878: the cubic schedule.

    Attributes:
        start: Share of zeros before the first step, in [0, 1).
        end: Share of zeros from half of the steps on.
        scope: Whether the smallest weights are sought over all layers together or in each.
    """

    start: float
    end: float
    scope: Scope

    def due(self, step: int, num_steps: int) -> float | None:
        """The sparsity to bring about after `step`, None if it stays what it is."""
        last = int(RISING_SHARE * num_steps)
        if step > last or (step % RAISE_EVERY and step != last):
            return None
        left = 1 - step / last if last else 0.0
        return self.end + (self.start - self.end) * left**3


def magnitude_masks(weights: Sequence[Tensor], *, sparsity: float, scope: Scope) -> list[Tensor]:
    """Masks of the shapes of `weights`: 0 for the `sparsity` share of smallest magnitude, 1 for the others."""
    magnitudes = [weight.detach().abs() for weight in weights]
    groups = [magnitudes] if scope == "global" else [[magnitude] for magnitude in magnitudes]
    masks = []
    for group in groups:
        values = torch.cat([magnitude.flatten() for magnitude in group])
        num_zeros = round(sparsity * len(values))
        threshold = values.kthvalue(num_zeros).values if num_zeros else -1.0
        masks += [(magnitude > threshold).to(magnitude.dtype) for magnitude in group]
    return masks
