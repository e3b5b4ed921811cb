"""GoogLeNet for 32 x 32 images, built from a plain list of channel widths.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, with batch normalization and the 5x5 convolutions as two
3x3 ones. A pruned network is another list of widths, so one class describes them all.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

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
POOL_AFTER = (1, 6)  # blocks that halve the resolution of what they pass on


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the network.

    Attributes:
        widths: Output channels of each convolution, in forward order: 3 of the stem, then 7 for each of 9 blocks.
        num_classes: Outputs of the linear layer.
        stem_pool: Whether to pool after the stem.
        dropout: Probability of dropping a feature before the linear layer.
    """

    widths: tuple[int, ...]
    num_classes: int
    stem_pool: bool
    dropout: float

    def __post_init__(self) -> None:
        expected = len(STEM) + sum(map(len, BLOCKS))
        if len(self.widths) != expected or min(self.widths) < 1:
            raise ValueError(f"widths must be {expected} counts of at least 1, got {list(self.widths)}")


def scaled_widths(width: float) -> tuple[int, ...]:
    """The published channel widths times `width`, at least 1 each."""
    return tuple(max(1, round(width * channels)) for group in (STEM, *BLOCKS) for channels in group)


class ConvBN(nn.Sequential):
    """Convolution, batch normalization, ReLU, at the same resolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class Inception(nn.Module):
    """Four branches side by side, concatenated."""

    def __init__(self, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        w1, w2a, w2b, w3a, w3b, w3c, w4 = widths
        self.branch1 = ConvBN(in_channels, w1, 1)
        self.branch2 = nn.Sequential(ConvBN(in_channels, w2a, 1), ConvBN(w2a, w2b, 3))
        self.branch3 = nn.Sequential(ConvBN(in_channels, w3a, 1), ConvBN(w3a, w3b, 3), ConvBN(w3b, w3c, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvBN(in_channels, w4, 1))
        self.out_channels = w1 + w2b + w3c + w4

    def forward(self, x: Tensor) -> Tensor:
        """From (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class GoogLeNet(nn.Module):
    """The network, from pixels in [0, 1] to logits; normalization is its first operation."""

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))

        stem, rest = architecture.widths[: len(STEM)], architecture.widths[len(STEM) :]
        self.stem = nn.Sequential(
            *(ConvBN(before, after, 3, bias=False) for before, after in zip((3, *stem), stem, strict=False))
        )
        if architecture.stem_pool:
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        channels = stem[-1]
        self.blocks = nn.Sequential()
        for i in range(len(BLOCKS)):
            block = Inception(channels, rest[7 * i : 7 * i + 7])
            self.blocks.append(block)
            channels = block.out_channels
            if i in POOL_AFTER:
                self.blocks.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.dropout = nn.Dropout(architecture.dropout)
        self.linear = nn.Linear(channels, architecture.num_classes)

    def set_normalization(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Normalize with these means and standard deviations of pixels in [0, 1], (3,) each."""
        self.mean.copy_(torch.from_numpy(mean).view(3, 1, 1))
        self.std.copy_(torch.from_numpy(std).view(3, 1, 1).clamp(min=1e-3))

    def forward(self, images: Tensor) -> Tensor:
        """Classify `images`, float (N, 3, H, W) in [0, 1]; returns logits (N, num_classes)."""
        x = self.blocks(self.stem((images - self.mean) / self.std))  # (N, C, H/8, W/8) with stem_pool
        logits: Tensor = self.linear(self.dropout(x.mean(dim=(2, 3))))
        return logits
