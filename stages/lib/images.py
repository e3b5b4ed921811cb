"""The image files of `data/`, and the validation split."""

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from stages.lib.artifacts import TRAIN_IMAGES

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1024  # images


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: uint8 (N, S, S, 3).
        labels: int64 (N,).
        classes: Names of the classes, indexed by label.
    """

    pixels: "np.ndarray | Rows"
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """The side of an image, S."""
        return int(self.pixels.shape[1])

    def take(self, indices: np.ndarray) -> "Images":
        """The images at `indices`, in that order, which stay in their file until they are read."""
        rows = self.pixels if isinstance(self.pixels, Rows) else Rows(self.pixels, np.arange(len(self)))
        return Images(Rows(rows.array, rows.indices[indices]), self.labels[indices], self.classes)

    def chunks(self) -> Iterator[np.ndarray]:
        """All pixels, at most `CHUNK` images at a time."""
        for start in range(0, len(self), CHUNK):
            yield self.pixels[start : start + CHUNK]

    def digest(self) -> bytes:
        """SHA-256 of all pixels and labels."""
        hashed = hashlib.sha256(self.labels.tobytes())
        for pixels in self.chunks():
            hashed.update(pixels.tobytes())
        return hashed.digest()


@dataclass(frozen=True)
class Rows:
    """Chosen rows of an array, which are read when they are asked for.

    Attributes:
        array: (M, ...), in memory or mapped from a file.
        indices: int64 (N,).
    """

    array: np.ndarray
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the chosen rows together."""
        return (len(self.indices), *self.array.shape[1:])

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        rows: np.ndarray = self.array[self.indices[chosen]]
        return rows


def read_images(path: Path) -> Images:
    """Read what `stages.download` wrote.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
            pixels = _mapped(path, archive.getinfo("images.npy"))
        with np.load(path, allow_pickle=False) as arrays:
            return Images(pixels, arrays["labels"], tuple(map(str, arrays["classes"])))
    except (BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must hold the images of stage download ({error}); run dvc repro --force download"
        ) from None


def _mapped(path: Path, member: ZipInfo) -> np.ndarray:
    """An array of an uncompressed npz file, mapped into memory instead of read."""
    if member.compress_type != ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # of the lengths of name and extra field in the local header
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.uint8 or len(shape) != 4:
            raise ValueError(f"{member.filename} holds {dtype} {shape}")
        return np.memmap(path, dtype, mode="r", offset=file.tell(), shape=shape)


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
        Pixels float (count, 3, S, S) in [0, 1], and labels (count,).
    """
    import torch

    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    pixels = torch.from_numpy(images.pixels[chosen]).permute(0, 3, 1, 2).float() / 255
    return pixels, torch.from_numpy(images.labels[chosen])


def channel_statistics(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of pixels / 255 for each channel, float64 (3,) each."""
    values = np.arange(256) / 255
    counts = np.zeros((3, 256))
    for pixels in images.chunks():
        counts += [np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)]
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    return mean, np.sqrt(shares @ values**2 - mean**2)
