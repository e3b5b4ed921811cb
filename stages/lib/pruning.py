"""Removing what a network can do without: channels (structured) or single weights (unstructured)."""

import copy
from dataclasses import replace

import torch
import torch_pruning as tp
from torch import nn
from torch.nn.utils import prune

from stages.lib.googlenet import GoogLeNet


def prune_channels(model: GoogLeNet, *, ratio: float, round_to: int | None) -> GoogLeNet:
    """Remove the same share of channels from every convolution, those of smallest L2 norm first.

    Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, as implemented by Torch-Pruning.

    Args:
        ratio: Share of the channels removed, in [0, 1).
        round_to: Kept channels become a multiple of this, rounded down; None keeps any count.

    Returns:
        A smaller network; `model` is left as it is.

    Raises:
        ValueError: If a layer would lose all of its channels.
    """
    kept = tuple(int(width * (1 - ratio)) for width in model.architecture.widths)
    widths = tuple(width - width % (round_to or 1) for width in kept)
    if min(widths) < 1:  # Torch-Pruning would silently leave such a layer whole
        raise ValueError(
            f"prune.ratio and prune.round_to must leave a channel in every layer, got {ratio} and {round_to} "
            f"for a layer of {min(model.architecture.widths)} channels; lower them"
        )
    pruned = copy.deepcopy(model).eval()
    pruner = tp.pruner.BasePruner(
        pruned,
        torch.zeros(1, 3, 32, 32),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[pruned.linear],  # its outputs are the classes
        round_to=round_to,
    )
    pruner.step()
    result = GoogLeNet(replace(model.architecture, widths=widths))
    result.load_state_dict(pruned.state_dict())  # raises if the widths were not those
    return result.eval()


def prune_weights(model: GoogLeNet, *, sparsity: float) -> GoogLeNet:
    """Set the weights of smallest magnitude to zero, over all convolutions and the linear layer together.

    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015.

    Args:
        sparsity: Share of the weights that become zero, in [0, 1).

    Returns:
        A network of the same shape; `model` is left as it is.
    """
    pruned = copy.deepcopy(model)
    layers = [(module, "weight") for module in pruned.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=float(sparsity))
    for module, name in layers:
        prune.remove(module, name)  # make the mask part of the weights
    return pruned
