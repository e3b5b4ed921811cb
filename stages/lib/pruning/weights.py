"""Unstructured pruning: single weights set to zero."""

import copy

from torch import Tensor, nn

from stages.lib.network.googlenet import GoogLeNet
from stages.lib.pruning.batch_norm import reestimate_batch_norm
from stages.lib.pruning.reconstruction import reconstruct
from stages.lib.pruning.sparsity import Scope, magnitude_masks


def prune_weights(model: GoogLeNet, *, sparsity: float, scope: Scope = "global") -> GoogLeNet:
    """Set weights of the convolutions and the linear layer to zero, those that `magnitude_masks` chooses.

    Args:
        sparsity: Share of the weights that become zero, in [0, 1).
        scope: Where the smallest are sought.

    Returns:
        A network of the same shape; `model` is left as it is.
    """
    pruned = copy.deepcopy(model)
    weights = [module.weight.data for module in pruned.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for weight, mask in zip(weights, magnitude_masks(weights, sparsity=sparsity, scope=scope), strict=True):
        weight *= mask
    return pruned


def sparsify(base: GoogLeNet, *, sparsity: float, scope: Scope, refit_on: Tensor, statistics_on: Tensor) -> GoogLeNet:
    """Set weights to zero, refit the others, and measure the statistics of batch normalization again.

    Args:
        sparsity, scope: As in `prune_weights`.
        refit_on: Images (N, 3, H, W) in [0, 1] for `reconstruct`; none leave the weights as they are.
        statistics_on: Images (N, 3, H, W) in [0, 1] for `reestimate_batch_norm`.

    Returns:
        A network of the same shape; `base` is left as it is.
    """
    pruned = prune_weights(base, sparsity=sparsity, scope=scope)
    if len(refit_on):
        pruned = reconstruct(base, pruned, refit_on)
    return reestimate_batch_norm(pruned, statistics_on)


def empty_layers(model: GoogLeNet) -> list[str]:
    """Names of the convolutions and the linear layer that have no weight but zeros."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [name for name, module in layers if not module.weight.any()]
