"""Training images that live on the device as uint8, and augmentation of whole batches there.

No Python loop over images and no wait for the device: every function works on a batch, with its randomness from
torch's global generator of that device.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stages.lib.images import CHUNK, Rows
from stages.lib.schema import Augmentation
from stages.lib.training.trivialaugment import trivial_augment

UNIT = 32  # pixels of the side of an image for which the lengths in a recipe are meant


def resident(pixels: np.ndarray | Rows, *, size: int, padding: int, device: torch.device) -> Tensor:
    """Put images on the device, resized and with a reflected border.

    Args:
        pixels: uint8 (N, S, S, 3); read a part at a time.

    Returns:
        uint8 (N, size + 2 * padding, size + 2 * padding, 3).
    """
    count, side = pixels.shape[0], size + 2 * padding
    result = torch.empty(count, side, side, 3, dtype=torch.uint8)
    border = (padding, padding)
    for start in range(0, count, CHUNK):
        images = torch.from_numpy(pixels[start : start + CHUNK])
        if size != images.shape[1]:
            channels_first = images.permute(0, 3, 1, 2)
            resized = functional.interpolate(channels_first, size=(size, size), mode="bilinear", antialias=True)
            images = resized.permute(0, 2, 3, 1)
        padded = np.pad(images.numpy(), ((0, 0), border, border, (0, 0)), mode="reflect")
        result[start : start + CHUNK] = torch.from_numpy(padded)
    return result.to(device)


def crop(padded: Tensor, indices: Tensor, *, size: int, flip: bool) -> Tensor:
    """Cut a random window out of each image, mirrored half of the time.

    Args:
        padded: uint8 (N, H, H, 3) from `resident`.
        indices: int64 (B,).

    Returns:
        float32 (B, 3, size, size) in [0, 1], channels_last.
    """
    count, device = len(indices), padded.device
    offsets = torch.randint(0, padded.shape[1] - size + 1, (2, count, 1), device=device)
    window = torch.arange(size, device=device)
    rows = offsets[0] + window  # (B, size)
    columns = offsets[1] + window
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    batch = padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, size, size, 3)
    return batch.permute(0, 3, 1, 2).float().div_(255)


def _boxes(count: int, size: int, height: Tensor, width: Tensor, device: torch.device) -> Tensor:
    """Masks of boxes at random places, cut off at the border: bool (count, 1, size, size)."""
    centres = torch.rand(2, count, 1, device=device) * size
    position = torch.arange(size, device=device) + 0.5
    rows = (position - centres[0]).abs() <= height.view(-1, 1) / 2  # (count, size)
    columns = (position - centres[1]).abs() <= width.view(-1, 1) / 2
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def cutout(images: Tensor, *, side: float, fill: Tensor) -> Tensor:
    """Cover a square of each image (DeVries & Taylor, arXiv 1708.04552).

    Args:
        images: float (B, 3, S, S).
        side: In pixels.
        fill: The colour, float (3, 1, 1).
    """
    count, size = len(images), images.shape[-1]
    length = torch.full((1,), side, device=images.device)
    return torch.where(_boxes(count, size, length, length, images.device), fill, images)


def _beta(alpha: float, count: int, device: torch.device) -> Tensor:
    """Mixing weights (count,) from Beta(alpha, alpha)."""
    parameter = torch.full((count,), alpha, device=device)
    # Validation would wait for the device.
    return torch.distributions.Beta(parameter, parameter, validate_args=False).sample()


def mixup(images: Tensor, targets: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend each image (B, 3, S, S) and target (B, C) with another of the batch (Zhang et al., arXiv 1710.09412)."""
    share = _beta(alpha, len(images), images.device)
    other = torch.randperm(len(images), device=images.device)
    mixed = torch.lerp(images[other], images, share.view(-1, 1, 1, 1))
    return mixed, torch.lerp(targets[other], targets, share.view(-1, 1))


def cutmix(images: Tensor, targets: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
    """Paste a box of another image into each, targets by area (Yun et al., arXiv 1905.04899). Shapes as in `mixup`."""
    count, size = len(images), images.shape[-1]
    side = size * (1 - _beta(alpha, count, images.device)).sqrt()
    boxes = _boxes(count, size, side, side, images.device)
    other = torch.randperm(count, device=images.device)
    share = 1 - boxes.float().mean(dim=(1, 2, 3))
    return torch.where(boxes, images[other], images), torch.lerp(targets[other], targets, share.view(-1, 1))


def augment(
    padded: Tensor,
    labels: Tensor,
    indices: Tensor,
    *,
    size: int,
    num_classes: int,
    recipe: Augmentation,
    mix: bool,
    fill: Tensor,
) -> tuple[Tensor, Tensor]:
    """One training batch.

    Args:
        padded: uint8 (N, H, H, 3) from `resident`.
        labels: int64 (N,).
        indices: int64 (B,), the batch.
        mix: Whether Mixup and CutMix may be used; with both, each batch has one of them by chance.
        fill: Colour of the cutout and of what TrivialAugment moves in, float (3, 1, 1).

    Returns:
        Images, float (B, 3, size, size) in [0, 1], and targets, float (B, num_classes) with rows that sum to 1.
    """
    images = crop(padded, indices, size=size, flip=recipe.flip)
    targets = torch.zeros(len(indices), num_classes, device=images.device)
    targets.scatter_(1, labels[indices, None], 1.0)  # one_hot() would wait for the device
    if recipe.trivial_augment:
        images = trivial_augment(images, fill=fill)
    if recipe.cutout:
        images = cutout(images, side=recipe.cutout * size / UNIT, fill=fill)
    mixes = [(mixup, recipe.mixup), (cutmix, recipe.cutmix)]
    mixes = [(function, alpha) for function, alpha in mixes if alpha > 0]
    if mix and mixes:
        # Chosen with the CPU's generator, so that nothing waits for the device.
        function, alpha = mixes[int(torch.randint(len(mixes), ()))]
        images, targets = function(images, targets, alpha=alpha)
    return images, targets
