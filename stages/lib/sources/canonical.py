"""Images in one canonical order, so that any source of them ends in the same bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Images, uint8 (N, S, S, 3), RGB, and their labels, int64 (N,), in canonical order."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Training and test images of the same classes; label i is `classes[i]`."""

    train: Split
    test: Split
    classes: tuple[str, ...]


def canonical(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
    """Order images (N, S, S, 3) and labels (N,) by the SHA-256 of an image's bytes, then by label."""
    # CIFAR-100 has identical images, some with different labels: the pixels alone would leave ties.
    keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
    order = sorted(range(len(keys)), key=lambda i: (keys[i], labels[i]))
    return Split(np.ascontiguousarray(images[order]), labels[order])


def digest(split: Split) -> str:
    """SHA-256 of all pixels, then all labels as one byte each."""
    hashed = hashlib.sha256(np.ascontiguousarray(split.images).data)
    hashed.update(split.labels.astype(np.uint8).data)
    return hashed.hexdigest()


def divide(whole: Split, *, test_share: float, classes: Sequence[str]) -> tuple[Split, Split]:
    """The first images of each class for training, and a share of it for the test, at least one image each.

    Raises:
        ValueError: If a class has one image only.
    """
    is_train = np.zeros(len(whole.labels), dtype=bool)
    for label, name in enumerate(classes):
        of_class = np.flatnonzero(whole.labels == label)
        if len(of_class) < 2:
            raise ValueError(f"class {name!r} must have at least 2 images to hold out one for the test, got 1; add one")
        num_train = round((1 - test_share) * len(of_class))
        is_train[of_class[: min(max(num_train, 1), len(of_class) - 1)]] = True
    train, test = (Split(whole.images[chosen], whole.labels[chosen]) for chosen in (is_train, ~is_train))
    return train, test


def limit(split: Split, per_class: int) -> Split:
    """The first `per_class` images of each class, or all that there are."""
    firsts = [np.flatnonzero(split.labels == label)[:per_class] for label in np.unique(split.labels)]
    keep = np.sort(np.concatenate(firsts))
    return Split(split.images[keep], split.labels[keep])
