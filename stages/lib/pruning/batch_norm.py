"""Statistics of batch normalization, which are stale once the layers before it have changed."""

import copy
import math

import torch
from torch import Tensor, nn

from stages.lib.network.googlenet import GoogLeNet

BATCH_SIZE = 250


@torch.no_grad()
def reestimate_batch_norm(model: GoogLeNet, images: Tensor) -> GoogLeNet:
    """Measure the statistics of batch normalization again, which are stale once layers before it have changed.

    Args:
        images: Float (N, 3, H, W) in [0, 1]; none leave the statistics as they are.

    Returns:
        A network with other statistics, in evaluation mode; `model` is left as it is.
    """
    result = copy.deepcopy(model).eval()
    if not len(images):
        return result
    norms = [module for module in result.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    # Even batches: each counts the same, however small.
    for batch in images.tensor_split(math.ceil(len(images) / BATCH_SIZE)):
        result(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return result.eval()
