"""GoogLeNet for small images, built from a plain list of channel widths.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, with batch normalization and the 5x5 convolutions as two
3x3 ones. A pruned network is another list of widths, and a factorized one has a list of ranks too, so one class
describes them all.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

STEM = (64, 64, 192)
# A block's branches: 1x1 | 1x1 -> 3x3 | 1x1 -> 3x3 -> 3x3 | pool -> 1x1, a width for each convolution.
BLOCKS = (
    (64, 96, 128, 16, 32, 32, 32),
    (128, 128, 192, 32, 96, 96, 64),
    (192, 96, 208, 16, 48, 48, 64),
    (160, 112, 224, 24, 64, 64, 64),
    (128, 128, 256, 24, 64, 64, 64),
    (112, 144, 288, 32, 64, 64, 64),
    (256, 160, 320, 32, 128, 128, 128),
    (256, 160, 320, 32, 128, 128, 128),
    (384, 192, 384, 48, 128, 128, 128),
)
STEM_STRIDES = {1: (1, 1, 1), 2: (2, 1, 1), 4: (2, 2, 1)}  # of each convolution, so that no pixel is skipped
POOL_AFTER = (1, 6)  # blocks that halve the resolution of what they pass on


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the network.

    Attributes:
        widths: Output channels of each convolution, in forward order: 3 of the stem, then 7 for each of 9 blocks.
        num_classes: Outputs of the linear layer.
        stem_pool: Whether to pool after the stem.
        dropout: Probability of dropping a feature before the linear layer.
        ranks: Channels between the two factors of each layer, in the order of `widths` and the linear layer last;
            0 for a layer that is whole. Empty if all are.
        weight_levels: Weights are whole multiples, at most this many, of a scale for each output channel; 0 for any.
        stem_stride: How many pixels become one in the first two layers: 1, 2 or 4.
    """

    widths: tuple[int, ...]
    num_classes: int
    stem_pool: bool
    dropout: float
    ranks: tuple[int, ...] = ()
    weight_levels: int = 0
    stem_stride: int = 1

    def __post_init__(self) -> None:
        expected = len(STEM) + sum(map(len, BLOCKS))
        if len(self.widths) != expected or min(self.widths) < 1:
            raise ValueError(f"widths must be {expected} counts of at least 1, got {list(self.widths)}")
        if self.ranks and (len(self.ranks) != expected + 1 or min(self.ranks) < 0):
            raise ValueError(f"ranks must be none or {expected + 1} counts of at least 0, got {list(self.ranks)}")
        if not 0 <= self.weight_levels < 128:
            raise ValueError(f"weight_levels must be in [0, 128), got {self.weight_levels}")
        if self.stem_stride not in STEM_STRIDES:
            raise ValueError(f"stem_stride must be one of {list(STEM_STRIDES)}, got {self.stem_stride}")


def stem_stride_for(image_size: int) -> int:
    """The least stride with which an image costs at most four times what one of 32 pixels costs."""
    return next(stride for stride in STEM_STRIDES if image_size <= 64 * stride)


def scaled_widths(width: float) -> tuple[int, ...]:
    """The published channel widths times `width`, at least 1 each."""
    return tuple(max(1, round(width * channels)) for group in (STEM, *BLOCKS) for channels in group)


class ConvBN(nn.Sequential):
    """Convolution, batch normalization, ReLU.

    A convolution with a rank is two: 1x1 and 1x1, or a column of 3 and a row of 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        rank: int = 0,
        stride: int = 1,
    ) -> None:
        k, pad = kernel_size, kernel_size // 2
        convolution: nn.Module
        if rank:
            convolution = nn.Sequential(
                nn.Conv2d(in_channels, rank, (k, 1), (stride, 1), padding=(pad, 0), bias=False),
                nn.Conv2d(rank, out_channels, (1, k), (1, stride), padding=(0, pad), bias=bias),
            )
        else:
            convolution = nn.Conv2d(in_channels, out_channels, k, stride, padding=pad, bias=bias)
        super().__init__(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

    def normalize(self, x: Tensor) -> Tensor:
        """What follows the convolution: batch normalization and ReLU."""
        y: Tensor = self[2](self[1](x))
        return y

    @property
    def last_convolution(self) -> nn.Conv2d:
        """The one whose outputs are normalized: module 0, or the second of its two factors."""
        last = self[0][-1] if isinstance(self[0], nn.Sequential) else self[0]
        assert isinstance(last, nn.Conv2d)
        return last


def linear(in_features: int, out_features: int, *, rank: int) -> nn.Module:
    """A linear layer, or two of them if it has a rank."""
    if not rank:
        return nn.Linear(in_features, out_features)
    return nn.Sequential(nn.Linear(in_features, rank, bias=False), nn.Linear(rank, out_features))


class Inception(nn.Module):
    """Four branches side by side, concatenated."""

    def __init__(self, in_channels: int, widths: tuple[int, ...], ranks: tuple[int, ...]) -> None:
        super().__init__()
        w1, w2a, w2b, w3a, w3b, w3c, w4 = widths
        r1, r2a, r2b, r3a, r3b, r3c, r4 = ranks
        self.branch1 = ConvBN(in_channels, w1, 1, rank=r1)
        self.branch2 = nn.Sequential(ConvBN(in_channels, w2a, 1, rank=r2a), ConvBN(w2a, w2b, 3, rank=r2b))
        self.branch3 = nn.Sequential(
            ConvBN(in_channels, w3a, 1, rank=r3a), ConvBN(w3a, w3b, 3, rank=r3b), ConvBN(w3b, w3c, 3, rank=r3c)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvBN(in_channels, w4, 1, rank=r4))
        self.out_channels = w1 + w2b + w3c + w4

    def forward(self, x: Tensor) -> Tensor:
        """From (N, in_channels, H, W) to (N, out_channels, H, W)."""
        x1, x2, x3 = self._heads(x)
        x2 = self.branch2[1](x2)
        x3 = self.branch3[2](self.branch3[1](x3))
        return torch.cat([x1, x2, x3, self.branch4(x)], dim=1)

    def _heads(self, x: Tensor) -> list[Tensor]:
        """What the 1x1 layers that read x give: those of branches 1, 2 and 3."""
        heads = [head for head in (self.branch1, self.branch2[0], self.branch3[0]) if isinstance(head, ConvBN)]
        convolutions = [head[0] for head in heads if isinstance(head[0], nn.Conv2d)]
        if not self.training or len(convolutions) < len(heads):
            return [head(x) for head in heads]
        # As one convolution: x is read once and has one gradient, where three would have to be added up.
        weight, bias = (torch.cat([getattr(layer, name) for layer in convolutions]) for name in ("weight", "bias"))
        outputs = functional.conv2d(x, weight, bias).split([layer.out_channels for layer in convolutions], dim=1)
        dense = (output.contiguous(memory_format=torch.channels_last) for output in outputs)
        return [head.normalize(output) for head, output in zip(heads, dense, strict=True)]


class GoogLeNet(nn.Module):
    """The network, from pixels in [0, 1] to logits; normalization is its first operation."""

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))

        widths = architecture.widths
        ranks = architecture.ranks or (0,) * (len(widths) + 1)
        channels = 3
        self.stem = nn.Sequential()
        strides = STEM_STRIDES[architecture.stem_stride]
        for width, rank, stride in zip(widths, ranks, strides, strict=False):
            self.stem.append(ConvBN(channels, width, 3, bias=False, rank=rank, stride=stride))
            channels = width
        if architecture.stem_pool:
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.blocks = nn.Sequential()
        for i, published in enumerate(BLOCKS):
            start = len(STEM) + i * len(published)
            convolutions = slice(start, start + len(published))
            block = Inception(channels, widths[convolutions], ranks[convolutions])
            self.blocks.append(block)
            channels = block.out_channels
            if i in POOL_AFTER:
                self.blocks.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.dropout = nn.Dropout(architecture.dropout)
        self.linear = linear(channels, architecture.num_classes, rank=ranks[-1])

    def layers(self) -> dict[str, nn.Module]:
        """What `Architecture.ranks` speaks of, by name in that order: each ConvBN and the linear layer."""
        convolutions = {name: module for name, module in self.named_modules() if isinstance(module, ConvBN)}
        return {**convolutions, "linear": self.linear}

    def set_normalization(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Normalize with these means and standard deviations of pixels in [0, 1], (3,) each."""
        self.mean.copy_(torch.from_numpy(mean).view(3, 1, 1))
        self.std.copy_(torch.from_numpy(std).view(3, 1, 1).clamp(min=1e-3))

    def forward(self, images: Tensor) -> Tensor:
        """Classify `images`, float (N, 3, H, W) in [0, 1]; returns logits (N, num_classes)."""
        x = self.blocks(self.stem((images - self.mean) / self.std))  # (N, C, H/8, W/8) with stem_pool, at stem_stride 1
        logits: Tensor = self.linear(self.dropout(x.mean(dim=(2, 3))))
        return logits
