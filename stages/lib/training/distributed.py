"""Training in several processes: one for each GPU, on one machine or many, started by torchrun.

The processes make the same steps on shares of the same batch, so they give what one process gives, within rounding.
Without torchrun there is one process, and every function here returns at once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn


@contextmanager
def process_group() -> Iterator[None]:
    """Connect with the other processes of torchrun for as long as the block runs."""
    if "LOCAL_RANK" not in os.environ or distributed.is_initialized():
        yield
        return
    if int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():  # others can train on the CPU alone
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def num_processes() -> int:
    """How many train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 alone writes and reports."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def from_first(value: Any) -> Any:
    """What process 0 gave."""
    if num_processes() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def any_of_them(value: bool) -> bool:
    """Whether `value` is true in any process."""
    if num_processes() == 1:
        return value
    flag = torch.tensor(int(value))  # on the CPU, so that no GPU is waited for
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


class _Mean(torch.autograd.Function):
    """The mean over processes; each one's loss depends on all of them, so gradients are averaged likewise."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total / num_processes()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return mean_over_processes(gradient)


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of `value`, which may carry a gradient, over the processes."""
    return value if num_processes() == 1 else _Mean.apply(value)


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """Batch normalization over the shares of all processes; PyTorch's own needs CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, C, H, W); N must be the same in every process."""
        if not self.training:
            return super().forward(x)
        values = x.float() if x.dtype.itemsize < 4 else x
        mean = mean_over_processes(values.mean((0, 2, 3)))  # (C,)
        centred = values - mean[:, None, None]
        var = mean_over_processes(centred.square().mean((0, 2, 3)))
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            count = x.numel() / x.shape[1] * num_processes()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(var + self.eps)
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)


def synchronize_batch_norm(model: nn.Module) -> None:
    """Make every batch normalization in `model` a synchronized one, with the same tensors."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                synchronized = SynchronizedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
                synchronized.weight, synchronized.bias = child.weight, child.bias
                for key, buffer in child.named_buffers():
                    setattr(synchronized, key, buffer)
                setattr(module, name, synchronized.train(child.training))
