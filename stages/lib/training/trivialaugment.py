"""TrivialAugment for whole batches: one random operation of random strength for each image.

Müller & Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", ICCV 2021 (arXiv 2103.10158),
with the wide ranges of torchvision's `TrivialAugmentWide`. The batch is dealt out to the operations in random order and
in equal shares, so each works on a slice whose size the host knows: nothing waits for the device, and for one image
every operation is as likely as any other.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

NUM_LEVELS = 31  # of an operation's strength

Operation = Callable[[Tensor, Tensor], Tensor]


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """`other` at factor 0, `images` (N, 3, S, S) at 1, and beyond."""
    return torch.lerp(other, images, factor.view(-1, 1, 1, 1)).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Luma (N, 1, S, S)."""
    red, green, blue = images.split(1, dim=1)
    luma: Tensor = 0.2989 * red + 0.587 * green + 0.114 * blue
    return luma


def brightness(images: Tensor, amount: Tensor) -> Tensor:
    """From black at -1 to doubled at 1."""
    return blend(images, torch.zeros_like(images), 1 + amount)


def color(images: Tensor, amount: Tensor) -> Tensor:
    """From grey at -1 to doubly saturated at 1."""
    return blend(images, grey(images).expand_as(images), 1 + amount)


def contrast(images: Tensor, amount: Tensor) -> Tensor:
    """From evenly grey at -1 to doubled at 1."""
    return blend(images, grey(images).mean((1, 2, 3), keepdim=True).expand_as(images), 1 + amount)


def sharpness(images: Tensor, amount: Tensor) -> Tensor:
    """From blurred at -1 to doubly sharp at 1; the border stays."""
    kernel = images.new_ones(3, 3)
    kernel[1, 1].fill_(5)
    blurred = functional.conv2d(images, (kernel / 13).expand(3, 1, 3, 3), groups=3)  # (N, 3, S - 2, S - 2)
    other = images.clone()
    other[:, :, 1:-1, 1:-1] = blurred
    return blend(images, other, 1 + amount)


def posterize(images: Tensor, amount: Tensor) -> Tensor:
    """Keep the highest bits of 8: all at strength 0, two at 1."""
    step = torch.exp2((6 * amount.abs()).round()).view(-1, 1, 1, 1)
    return ((images * 255).round() / step).floor() * step / 255


def solarize(images: Tensor, amount: Tensor) -> Tensor:
    """Invert what is at least as bright as 1 - strength."""
    return torch.where(images >= 1 - amount.abs().view(-1, 1, 1, 1), 1 - images, images)


def autocontrast(images: Tensor, _amount: Tensor) -> Tensor:
    """Stretch each channel to [0, 1]; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, (images - low) / span.clamp(min=1e-6), images)


def equalize(images: Tensor, _amount: Tensor) -> Tensor:
    """Spread each channel's values evenly over [0, 1], by its histogram of 256 levels."""
    levels = (images * 255).round().long().flatten(2)  # (N, 3, S * S)
    histogram = torch.zeros(*levels.shape[:2], 256, dtype=torch.long, device=images.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels))
    # As in Pillow, the brightest level present doesn't count.
    brightest = levels.amax(2, keepdim=True)
    step = (levels.shape[2] - histogram.gather(2, brightest)) // 255  # (N, 3, 1)
    below = histogram.cumsum(2) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    equalized = table.gather(2, levels).view_as(images) / 255
    return torch.where(step.unsqueeze(3) > 0, equalized, images)


def _shear_x(amount: Tensor) -> tuple[Tensor, ...]:
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return one, 0.99 * amount, zero, zero, one, zero


def _shear_y(amount: Tensor) -> tuple[Tensor, ...]:
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return one, zero, zero, 0.99 * amount, one, zero


def _translate_x(amount: Tensor) -> tuple[Tensor, ...]:
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return one, zero, 2 * amount, zero, one, zero  # 2: the whole side


def _translate_y(amount: Tensor) -> tuple[Tensor, ...]:
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return one, zero, zero, zero, one, 2 * amount


def _rotate(amount: Tensor) -> tuple[Tensor, ...]:
    angle, zero = math.radians(135) * amount, torch.zeros_like(amount)
    return angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero


MOVES = (_shear_x, _shear_y, _translate_x, _translate_y, _rotate)
COLORS: tuple[Operation, ...] = (
    brightness, color, contrast, sharpness, posterize, solarize, autocontrast, equalize,
)  # fmt: skip
NUM_OPERATIONS = 1 + len(MOVES) + len(COLORS)  # the first leaves an image as it is


def move(images: Tensor, matrices: Tensor, *, fill: Tensor) -> Tensor:
    """Take each pixel from where its image's matrix says, and `fill` from outside; the nearest pixel, as torchvision.

    Args:
        images: Float (N, 3, S, S).
        matrices: From output to input, coordinates in [-1, 1], float (N, 2, 3).
        fill: Float (3, 1, 1).
    """
    if len(images) == 0:  # in a small batch; affine_grid refuses it
        return images
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images - fill, grid, mode="nearest", align_corners=False) + fill


def trivial_augment(images: Tensor, *, fill: Tensor) -> Tensor:
    """One operation for each image.

    Args:
        images: Float (B, 3, S, S) in [0, 1].
        fill: Colour of what comes in from outside, float (3, 1, 1).

    Returns:
        New images of the same shape, range and memory layout.
    """
    count, device = len(images), images.device
    order = torch.randperm(count, device=device)
    # Signs count for all but posterizing and solarizing; level 0 changes nothing in any of them.
    strength = torch.randint(NUM_LEVELS, (count,), device=device) / (NUM_LEVELS - 1)
    amount = strength * (2 * torch.randint(2, (count,), device=device) - 1)
    # Which operations take one image more is drawn on the host, whose generator needs no wait.
    shares = [count // NUM_OPERATIONS + (i < count % NUM_OPERATIONS) for i in torch.randperm(NUM_OPERATIONS).tolist()]
    dealt = images[order].split(shares)
    amounts = amount.split(shares)
    identity, moved, coloured = dealt[0], dealt[1 : 1 + len(MOVES)], dealt[1 + len(MOVES) :]
    entries = [torch.stack(move_(part), dim=1) for move_, part in zip(MOVES, amounts[1:], strict=False)]
    results = [
        identity,
        move(torch.cat(moved), torch.cat(entries).view(-1, 2, 3), fill=fill),
        *(operation(*pair) for operation, *pair in zip(COLORS, coloured, amounts[1 + len(MOVES) :], strict=True)),
    ]
    augmented = torch.empty_like(images)
    augmented[order] = torch.cat(results)
    return augmented
