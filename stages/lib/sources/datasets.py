"""Where raw images come from: CIFAR-100, scikit-learn's digits, or a folder of the user's own."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from stages.lib.artifacts import cache_folder, user_path
from stages.lib.sources.canonical import Dataset, canonical, divide, limit
from stages.lib.sources.cifar100 import download_cifar100, read_cifar100
from stages.lib.sources.folder import read_folder


def load_dataset(
    *,
    name: Literal["cifar100", "digits", "folder"],
    folder: Path = Path("photos"),
    test_share: float | None = None,
    image_size: int = 32,
    limit_per_class: int | None = None,
) -> Dataset:
    """Read the data set `name`, from wherever it is to be had, in canonical order.

    Args:
        name: `digits`, `folder`, or `cifar100`: from the folder `CIFAR100_DIR` if set, else downloaded.
        folder: The user's own images, for `folder`.
        test_share: Of each class of that folder, for the test where it has no test/.
        image_size: Side in pixels that digits and the user's own images are brought to.
        limit_per_class: Keep at most this many images of each class, in each split.

    Raises:
        ValueError: If the data are not what they should be.
        OSError: If they cannot be read or downloaded.
    """
    if name == "cifar100":
        local = os.environ.get("CIFAR100_DIR")
        dataset = read_cifar100(user_path(local)) if local else download_cifar100(cache_folder())
    elif name == "digits":
        dataset = read_digits(image_size)
    else:
        dataset = read_folder(folder, image_size=image_size, test_share=test_share)
    if limit_per_class is None:
        return dataset
    train, test = (limit(split, limit_per_class) for split in (dataset.train, dataset.test))
    return Dataset(train, test, dataset.classes)


def read_digits(image_size: int = 32) -> Dataset:
    """Scikit-learn's 1,797 digits of 8x8 pixels, scaled up, RGB; 80 % of each class are for training.

    Source: https://archive.ics.uci.edu/dataset/80, as shipped in scikit-learn.
    """
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), from 0..16
    images = [Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BILINEAR) for image in pixels]
    # Neighbours in the original order come from one writer; the canonical order mixes them.
    whole = canonical(np.stack([np.asarray(image.convert("RGB")) for image in images]), digits.target)
    return Dataset(*divide(whole, test_share=0.2, classes="0123456789"), classes=tuple("0123456789"))
