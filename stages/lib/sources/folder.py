"""A user's own images, in a folder for each class."""

import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from stages.lib.artifacts import user_path
from stages.lib.runtime.preparation import prepare
from stages.lib.sources.canonical import Dataset, Split, canonical, divide
from stages.lib.stage import printable, track

MOST_NAMED = 20
STRAY = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")  # what file managers leave behind


def read_folder(folder: Path, *, image_size: int, test_share: float | None) -> Dataset:
    """Read images from `folder`/train/CLASS/ and `folder`/test/CLASS/, as `prepare` does.

    Hidden files and what file managers leave behind are skipped; whatever else lies in a class's folder must be an
    image.

    Args:
        image_size: Side of the square that images are brought to, in pixels.
        test_share: Of each class, held out for the test where there is no `folder`/test.

    Raises:
        ValueError: If a folder or a class is missing or empty.
        ExceptionGroup: One ValueError for each image that can't be used, up to `MOST_NAMED`, and one for the rest.
    """
    folder = user_path(folder).resolve()
    if not (folder / "train").is_dir():
        raise ValueError(f"data.folder must hold train/CLASS/ with images, found no train/ in {folder}; add it")
    classes = _classes(folder / "train")
    if len(classes) < 2:
        raise ValueError(f"{folder}/train must hold at least 2 classes, one folder each, got {classes}; add one")
    if (folder / "test").is_dir():
        _compare(classes, _classes(folder / "test"), folder)
        train, test = (_read_split(folder / split, classes, image_size) for split in ("train", "test"))
        return Dataset(train, test, tuple(classes))
    if test_share is None:
        raise ValueError(
            f"data.folder must hold test/CLASS/ with images, found no test/ in {folder}; add it, or set "
            "data.test_share to hold out a share of train/"
        )
    whole = _read_split(folder / "train", classes, image_size)
    return Dataset(*divide(whole, test_share=test_share, classes=classes), tuple(classes))


def _classes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _compare(train: Sequence[str], test: Sequence[str], folder: Path) -> None:
    """Refuse classes that are in one of the two folders only."""
    for alone, others in ((set(train) - set(test), test), (set(test) - set(train), train)):
        for name in sorted(alone):
            for other in others:
                if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other):
                    raise ValueError(
                        f"{folder}: train/ and test/ must have the same classes, got {name!a} and {other!a}, which "
                        "look alike but differ in their Unicode normalization; rename one"
                    )
    if unpaired := sorted(set(train) ^ set(test)):
        named = ", ".join(map(repr, unpaired[:MOST_NAMED])) + ", …" * (len(unpaired) > MOST_NAMED)
        raise ValueError(
            f"{folder}: train/ and test/ must have the same classes, {len(unpaired)} are in one of them only ({named});"
            " add the other folder of each, or remove it"
        )


def _read_split(folder: Path, classes: Sequence[str], image_size: int) -> Split:
    paths, labels = [], []
    for label, name in enumerate(classes):
        of_class = [path for path in sorted((folder / name).iterdir()) if not path.name.startswith(".")]
        if stray := [path for path in of_class if _is_stray(path)]:
            print(printable(f"skipped in {folder / name}: {', '.join(path.name for path in stray)}"))
        of_class = [path for path in of_class if not _is_stray(path)]
        if not of_class:
            raise ValueError(f"{folder / name} must hold at least one image; add one, or remove the class")
        paths += of_class
        labels += [label] * len(of_class)
    images = np.empty((len(paths), image_size, image_size, 3), np.uint8)
    problems: list[ValueError] = []
    with ThreadPoolExecutor() as pool:
        results = pool.map(partial(_attempt, size=image_size), paths)
        for i in track(range(len(paths)), unit="image"):
            result = next(results)
            if isinstance(result, ValueError):
                problems.append(result)
            else:
                images[i] = result
    if len(problems) > MOST_NAMED:
        problems[MOST_NAMED:] = [ValueError(f"{len(problems) - MOST_NAMED} more files in {folder} can't be used")]
    if problems:
        raise ExceptionGroup(f"files in {folder}", problems)
    return canonical(images, np.array(labels))


def _is_stray(path: Path) -> bool:
    return path.name.lower() in STRAY or path.name.endswith(":Zone.Identifier")


def _attempt(path: Path, *, size: int) -> np.ndarray | ValueError:
    try:
        return prepare(path, size)
    except ValueError as error:
        return error
