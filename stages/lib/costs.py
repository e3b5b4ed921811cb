"""What a network costs by its shapes and values: parameters and multiply-accumulates."""

import math

import torch
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Learned values; statistics of batch normalization are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_nonzero_parameters(model: nn.Module) -> int:
    """Learned values that are not zero."""
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())


def count_macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of all Conv2d and Linear modules for `image` (1, 3, H, W), zeros counted as any value."""
    macs = 0

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal macs
        assert isinstance(module.weight, Tensor)
        macs += output.numel() * math.prod(module.weight.shape[1:])  # every output value is one dot product

    handles = [
        module.register_forward_hook(add) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.inference_mode():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return macs
