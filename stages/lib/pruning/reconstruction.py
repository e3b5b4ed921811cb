"""Least-squares reconstruction: what pruning left of a layer is refitted to give what the whole layer gave.

He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017. Where single weights were removed,
each output has its own weights left to fit, as in Frantar and Alistarh, "SparseGPT", ICML 2023.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.network.googlenet import ConvBN, GoogLeNet
from stages.lib.stage import Steps

BATCH_SIZE = 64
RIDGE = 0.01  # of the mean variance of what a layer reads: weights that the images don't determine stay as they are


@torch.no_grad()
def reconstruct(original: GoogLeNet, pruned: GoogLeNet, images: Tensor) -> GoogLeNet:
    """Refit the weights that are not zero, layer by layer from the input on.

    A layer reads what the layers before it give now, and is to give what it gave in `original`: least squares over all
    positions of all images, with a ridge towards the weights as they are. Biases follow or, where a layer has none,
    the means of its batch normalization.

    Args:
        original: The network before pruning.
        pruned: The same, with weights that are zero.
        images: Float (N, 3, H, W) in [0, 1], at least one.

    Returns:
        A network in evaluation mode, with the zeros of `pruned`; both arguments are left as they are.
    """
    original, result = (copy.deepcopy(model).eval() for model in (original, pruned))
    whole, layers = original.layers(), result.layers()
    with Steps(len(layers), unit="layer") as steps:
        handles = [layer.register_forward_hook(_refitting(whole[name], steps)) for name, layer in layers.items()]
        result(torch.cat([images, images]))  # the first half as through `original`
    for handle in handles:
        handle.remove()
    return result


def _refitting(whole: nn.Module, steps: Steps) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """A hook for a layer that refits it, then answers for `whole` on the first half of the batch."""

    def hook(layer: nn.Module, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        before, now = inputs[0].chunk(2)
        part = _linear_part(layer)
        shift = _refit(part, now, _linear_part(whole), before)
        if part.bias is not None:
            part.bias.copy_(shift)
        elif isinstance(layer, ConvBN):
            layer[1].get_buffer("running_mean").sub_(shift)
        steps.advance()
        return torch.cat([whole(before), layer.forward(now)])

    return hook


def _linear_part(layer: nn.Module) -> nn.Conv2d | nn.Linear:
    part = layer[0] if isinstance(layer, ConvBN) else layer
    assert isinstance(part, nn.Conv2d | nn.Linear), f"pruning comes before factorization, got {part}"
    return part


def _refit(layer: nn.Conv2d | nn.Linear, now: Tensor, whole: nn.Conv2d | nn.Linear, before: Tensor) -> Tensor:
    """Least squares: `layer(now)` near to `whole(before)`, by its weights and the returned bias, (out,)."""
    weight = layer.weight.flatten(1).double()  # (out, in)
    second, cross = weight.new_zeros(weight.shape[1], weight.shape[1]), weight.new_zeros(weight.shape[::-1])
    mean, target_mean = weight.new_zeros(weight.shape[1]), weight.new_zeros(len(weight))
    count = 0
    origin = _read(layer, now[:BATCH_SIZE]).mean(dim=1)  # near to the mean, so that little is lost by rounding below
    for batch, target_batch in zip(now.split(BATCH_SIZE), before.split(BATCH_SIZE), strict=True):
        read = _read(layer, batch) - origin[:, None]  # (in, positions)
        target = whole(target_batch).transpose(0, 1).flatten(1)  # (out, positions)
        second += read @ read.T
        cross += read @ target.T
        mean += read.sum(dim=1)
        target_mean += target.sum(dim=1)
        count += read.shape[1]
    mean, target_mean = mean / count, target_mean / count
    second, cross = second / count - mean.outer(mean), cross / count - mean.outer(target_mean)
    ridge = RIDGE * second.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    second.diagonal().add_(ridge)
    cross += ridge * weight.T

    kept, pattern_of = (weight != 0).unique(dim=0, return_inverse=True)  # outputs of one pattern have one system
    fitted = torch.zeros_like(weight)
    for i, pattern in enumerate(kept):
        inputs, outputs = pattern.nonzero().flatten(), (pattern_of == i).nonzero().flatten()
        if not len(inputs):
            continue
        factor, failed = torch.linalg.cholesky_ex(second[inputs][:, inputs])
        solution = torch.cholesky_solve(cross[inputs][:, outputs], factor).T
        # What a dead layer gives determines nothing: the weights that read it stay as they are.
        fitted[outputs[:, None], inputs] = weight[outputs[:, None], inputs] if failed else solution
    layer.weight.copy_(fitted.view_as(layer.weight))
    return target_mean - fitted @ (mean + origin)


def _read(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """What each position of the output is a weighted sum of, (weights of an output, positions)."""
    if isinstance(layer, nn.Conv2d):
        x = functional.unfold(x, layer.kernel_size, padding=layer.kernel_size[0] // 2, stride=layer.stride)
    return x.transpose(0, 1).flatten(1)
