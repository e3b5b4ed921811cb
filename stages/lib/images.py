"""The image files of `data/`, and the validation split."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from stages.lib.artifacts import TRAIN_IMAGES

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: uint8 (N, 32, 32, 3).
        labels: int64 (N,).
        classes: Names of the classes, indexed by label.
    """

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Images":
        """The images at `indices`, in that order."""
        return Images(self.pixels[indices], self.labels[indices], self.classes)


def read_images(path: Path) -> Images:
    """Read what `stages.download` wrote.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Images(arrays["images"], arrays["labels"], tuple(map(str, arrays["classes"])))
    except (BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must hold the images of stage download ({error}); run dvc repro --force download"
        ) from None


def split_validation(images: Images, *, per_class: int, seed: int) -> tuple[Images, Images]:
    """Hold out `per_class` images of each class.

    Returns:
        The images to train on and the images to validate on, each in the order of `images`.

    Raises:
        ValueError: If a class has no image left to train on.
    """
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(images), dtype=bool)
    for label, name in enumerate(images.classes):
        members = np.flatnonzero(images.labels == label)
        if len(members) <= per_class:
            raise ValueError(
                f"data.val_per_class must be below the {len(members)} training images of class {name!r}, "
                f"got {per_class}; lower it, or add images of that class"
            )
        held_out[rng.permutation(members)[:per_class]] = True
    return images.take(np.flatnonzero(~held_out)), images.take(np.flatnonzero(held_out))


def read_training_images(*, val_per_class: int, seed: int) -> tuple[Images, Images]:
    """The images to train on and those to validate on, as `split_validation` divides data/train.npz.

    Raises:
        ValueError: As `read_images` and `split_validation` do.
    """
    return split_validation(read_images(TRAIN_IMAGES), per_class=val_per_class, seed=seed)


def random_batch(images: Images, count: int, *, seed: int) -> tuple["Tensor", "Tensor"]:
    """Choose `count` images at random, or all where there are fewer.

    Returns:
        Pixels float (count, 3, 32, 32) in [0, 1], and labels (count,).
    """
    import torch

    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    pixels = torch.from_numpy(images.pixels[chosen]).permute(0, 3, 1, 2).float() / 255
    return pixels, torch.from_numpy(images.labels[chosen])


def channel_statistics(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of pixels / 255 for each channel, float64 (3,) each."""
    values = np.arange(256) / 255
    shares = np.stack([np.bincount(images.pixels[..., c].ravel(), minlength=256) for c in range(3)])
    shares = shares / shares.sum(axis=1, keepdims=True)  # (3, 256)
    mean = shares @ values
    return mean, np.sqrt(shares @ values**2 - mean**2)
