"""Images in one canonical order, so that any source of them ends in the same bytes."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Images, uint8 (N, 32, 32, 3), RGB, and their labels, int64 (N,), in canonical order."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Training and test images of the same classes; label i is `classes[i]`."""

    train: Split
    test: Split
    classes: tuple[str, ...]


def canonical(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
    """Order images (N, 32, 32, 3) and labels (N,) by the SHA-256 of an image's bytes, then by label."""
    # CIFAR-100 has identical images, some with different labels: the pixels alone would leave ties.
    keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
    order = sorted(range(len(keys)), key=lambda i: (keys[i], labels[i]))
    return Split(np.ascontiguousarray(images[order]), labels[order])


def digest(split: Split) -> str:
    """SHA-256 of all pixels, then all labels as one byte each."""
    return hashlib.sha256(split.images.tobytes() + split.labels.astype(np.uint8).tobytes()).hexdigest()


def limit(split: Split, per_class: int) -> Split:
    """The first `per_class` images of each class, or all that there are.

    Raises:
        ValueError: If `per_class` is below 1.
    """
    if per_class < 1:
        raise ValueError(f"data.limit_per_class must be at least 1, got {per_class}; null keeps every image")
    firsts = [np.flatnonzero(split.labels == label)[:per_class] for label in np.unique(split.labels)]
    keep = np.sort(np.concatenate(firsts))
    return Split(split.images[keep], split.labels[keep])
