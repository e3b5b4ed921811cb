"""Structured pruning: channels removed with everything that depends on them."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.network.googlenet import ConvBN, GoogLeNet
from stages.lib.pruning.reconstruction import reconstruct

BATCH_SIZE = 250
ROUNDING = 1e-9  # of floats: 160 * (1 - 0.2 * 3 / 3) is just below 128
IMPORTANCES = {
    "magnitude": tp.importance.GroupMagnitudeImportance(p=2),
    "bn_scale": tp.importance.BNScaleImportance(),
    "taylor": tp.importance.GroupTaylorImportance(),
}


def prune_channels(
    model: GoogLeNet,
    *,
    ratio: float,
    round_to: int | None,
    scope: Literal["uniform", "global"] = "uniform",
    max_ratio: float = 1.0,
    importance: Literal["magnitude", "bn_scale", "taylor"] = "magnitude",
    examples: tuple[Tensor, Tensor] | None = None,
    refit_on: Tensor | None = None,
) -> GoogLeNet:
    """Remove the channels that matter least, with all weights of other layers that depend on them.

    Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, as implemented by Torch-Pruning. Importances:
    the L2 norm of a channel's weights in all layers; the scale of its batch normalization (Liu et al., "Learning
    Efficient Convolutional Networks through Network Slimming", ICCV 2017); the first-order Taylor expansion of the loss
    (Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019).

    Args:
        ratio: Share of the channels removed, in [0, 1).
        round_to: Kept channels become the nearest multiple of this, or the one above where the layer would lose too
            many, or all that it has; None keeps any count.
        scope: The same share of every layer, or the least important channels of all layers.
        max_ratio: With scope global, the most that a layer loses; at least `ratio`.
        examples: Images (N, 3, H, W) in [0, 1] and labels (N,), for the importance taylor.
        refit_on: Images (N, 3, H, W) in [0, 1] on which the weights that stay are refitted (see `reconstruct`); where
            there are none, they stay as they are.

    Returns:
        A smaller network; `model` is left as it is.

    Raises:
        ValueError: If a layer would lose all of its channels.
    """
    pruned = copy.deepcopy(model).eval()
    layers = [module for module in pruned.modules() if isinstance(module, nn.Conv2d)]  # in the order of the widths
    graph = tp.DependencyGraph().build_dependency(pruned, torch.zeros(1, 3, 32, 32))
    if importance == "taylor" and examples is None:
        raise ValueError("prune.importance taylor needs examples, got none; pass images and labels")
    groups = [
        graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels))) for layer in layers
    ]
    batches = _with_gradients(pruned, *examples) if importance == "taylor" and examples else [None]
    rated = [[IMPORTANCES[importance](group).detach() for group in groups] for _ in batches]
    scores = [torch.stack(each).mean(dim=0) for each in zip(*rated, strict=True)]  # of the channels of each layer

    full = model.architecture.widths
    if scope == "uniform":
        fewest = [1] * len(full)
        kept = [int(width * (1 - ratio) + ROUNDING) for width in full]
    else:
        fewest = [max(1, math.ceil(width * (1 - max_ratio) - ROUNDING)) for width in full]
        kept = _most_important(scores, full, fewest, ratio=ratio)
    if min(kept) < 1:
        raise ValueError(
            f"prune.ratio must leave a channel in every layer, got {ratio} for a layer of "
            f"{full[kept.index(min(kept))]} channels; lower it"
        )
    wholes = [_whole_groups(*counts, size=round_to or 1) for counts in zip(kept, fewest, strict=True)]
    widths = tuple(min(width, len(s)) for width, s in zip(wholes, scores, strict=True))
    removed = [score.argsort()[: len(score) - width].tolist() for score, width in zip(scores, widths, strict=True)]
    if refit_on is not None and len(refit_on):
        pruned.load_state_dict(reconstruct(model, _silenced(model, removed), refit_on).state_dict())
    for layer, least in zip(layers, removed, strict=True):
        if least:
            graph.get_pruning_group(layer, tp.prune_conv_out_channels, least).prune()
    result = GoogLeNet(replace(model.architecture, widths=widths))
    result.load_state_dict(pruned.state_dict())  # raises if the widths were not those
    return result.eval()


@torch.no_grad()
def _silenced(model: GoogLeNet, channels: Sequence[Sequence[int]]) -> GoogLeNet:
    """A copy in which these output channels of each convolution are zero for any image."""
    silenced = copy.deepcopy(model)
    layers = [module for module in silenced.modules() if isinstance(module, ConvBN)]
    for layer, silent in zip(layers, channels, strict=True):
        for parameter in layer.parameters():  # of the convolution and its normalization, (out_channels, ...) each
            parameter[silent] = 0
    return silenced


def _whole_groups(kept: int, least: int, *, size: int) -> int:
    """The multiple of `size` nearest to `kept`, or the one above where less than `least` would be left."""
    rounded = (kept + size // 2) // size * size
    return rounded if rounded >= least else rounded + size


def _most_important(scores: Sequence[Tensor], full: Sequence[int], least: Sequence[int], *, ratio: float) -> list[int]:
    """How many channels each layer keeps if the least important of all layers go, but for the `least` of each."""
    # A layer's most important channels are safe; the others compete.
    competing = [(score, i) for i, s in enumerate(scores) for score in sorted(s.tolist())[: len(s) - least[i]]]
    num_removed = sum(full) - round(sum(full) * (1 - ratio))
    kept = [len(s) for s in scores]
    for _, i in sorted(competing)[:num_removed]:
        kept[i] -= 1
    return kept


def _with_gradients(model: GoogLeNet, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """The loss of each batch, its gradient in the weights: summed up, those of a trained network cancel out."""
    for batch, expected in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        model.zero_grad()
        loss = functional.cross_entropy(model(batch), expected, reduction="sum")
        loss.backward()
        yield loss
