"""Where raw images come from: CIFAR-100, scikit-learn's digits, or a folder of the user's own."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from stages.lib.artifacts import cache_folder, user_path
from stages.lib.sources.canonical import Dataset, Split, canonical, limit
from stages.lib.sources.cifar100 import download_cifar100, read_cifar100


def load_dataset(*, name: str, folder: Path | None = None, limit_per_class: int | None = None) -> Dataset:
    """Read the data set `name`, from wherever it is to be had, in canonical order.

    Args:
        name: `digits`, `folder`, or `cifar100`: from the folder `CIFAR100_DIR` if set, else downloaded.
        folder: The user's own images, for `folder`.
        limit_per_class: Keep at most this many images of each class, in each split.

    Raises:
        ValueError: If the data are not what they should be.
        OSError: If they cannot be read or downloaded.
    """
    if name == "cifar100":
        local = os.environ.get("CIFAR100_DIR")
        dataset = read_cifar100(user_path(local)) if local else download_cifar100(cache_folder())
    elif name == "digits":
        dataset = read_digits()
    elif name == "folder" and folder is not None:
        dataset = read_folder(folder)
    else:
        raise ValueError(f"data.name must be cifar100, digits, or folder with data.folder, got {name}, {folder}")
    if limit_per_class is None:
        return dataset
    train, test = (limit(split, limit_per_class) for split in (dataset.train, dataset.test))
    return Dataset(train, test, dataset.classes)


def read_digits() -> Dataset:
    """Scikit-learn's 1,797 digits of 8x8 pixels, scaled up to 32x32 RGB; 80 % of each class are for training.

    Source: https://archive.ics.uci.edu/dataset/80, as shipped in scikit-learn.
    """
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), from 0..16
    images = [Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR) for image in pixels]
    # Neighbours in the original order come from one writer; the canonical order mixes them.
    whole = canonical(np.stack([np.asarray(image.convert("RGB")) for image in images]), digits.target)
    is_train = np.zeros(len(whole.labels), dtype=bool)
    for label in range(10):
        of_class = np.flatnonzero(whole.labels == label)
        is_train[of_class[: round(0.8 * len(of_class))]] = True
    train, test = (Split(whole.images[chosen], whole.labels[chosen]) for chosen in (is_train, ~is_train))
    return Dataset(train, test, classes=tuple("0123456789"))


def read_folder(folder: Path) -> Dataset:
    """Read a user's images from `folder`/train/CLASS/ and `folder`/test/CLASS/, brought to 32x32 RGB.

    Hidden files are ignored; whatever else lies in a class's folder must be an image of 8 bits a channel. What is
    transparent is put on white.

    Raises:
        ValueError: If a folder or a class is missing or empty, or an image cannot be read.
    """
    folder = user_path(folder).resolve()
    if not folder.is_dir():
        raise ValueError(f"data.folder must be a folder with train/ and test/, found none at {folder}; check its path")
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise ValueError(f"data.folder must hold train/ and test/, got {folder} without {split}/; add it")
    train, test = ([path.name for path in _visible(folder / split) if path.is_dir()] for split in ("train", "test"))
    if unpaired := sorted(set(train) ^ set(test)):
        raise ValueError(f"{folder}: train/ and test/ must have the same classes, {unpaired} are in one only")
    if len(train) < 2:
        raise ValueError(f"{folder}/train must hold at least 2 classes, one folder each, got {train}; add one")
    return Dataset(_folder_split(folder / "train", train), _folder_split(folder / "test", test), tuple(train))


def _folder_split(folder: Path, classes: list[str]) -> Split:
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (paths := _visible(folder / name)):
            raise ValueError(f"{folder / name} must hold at least one image; add one, or remove the class")
        images += [_read_image(path) for path in paths]
        labels += [label] * len(paths)
    return canonical(np.stack(images), np.array(labels))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read_image(path: Path) -> NDArray[np.uint8]:
    if path.is_dir():
        raise ValueError(f"{path} must be an image, got a folder; move its images up or remove it")
    try:
        with Image.open(path) as image:
            mode = image.mode
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            upright = upright.convert("RGB")
    except Exception as error:  # decoders raise whatever they stumble over
        raise ValueError(f"{path} is no readable image ({error}); repair or remove it") from error
    if mode.startswith(("I", "F")):  # would be cut off at 255
        raise ValueError(f"{path} must have 8 bits a channel, got Pillow's mode {mode}; convert it")
    # Scales the shorter side to 32 with antialiasing and cuts the longer one, evenly.
    return np.asarray(ImageOps.fit(upright, (32, 32), method=Image.Resampling.BICUBIC))
