"""Write the images of the chosen source to `data/`, in one canonical order: any source gives the same bytes."""

import argparse
from pathlib import Path

import numpy as np

from stages.lib.artifacts import replacing
from stages.lib.params import load_params
from stages.lib.sources.canonical import Split, digest
from stages.lib.sources.datasets import load_dataset
from stages.lib.stage import one_line_errors


def write_split(path: Path, split: Split, classes: tuple[str, ...]) -> None:
    """Write `images` uint8 (N, S, S, 3), `labels` int64 (N,) and `classes` (names by label), whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, images=split.images, labels=split.labels, classes=np.array(classes))


def main() -> None:
    """Read the chosen source, write data/train.npz and data/test.npz."""
    params = load_params().data
    dataset = load_dataset(
        name=params.name,
        folder=params.folder,
        test_share=params.test_share,
        image_size=params.image_size,
        limit_per_class=params.limit_per_class,
    )
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        write_split(Path(f"data/{name}.npz"), split, dataset.classes)
        print(f"{name}: {len(split.labels)} images of {len(dataset.classes)} classes, SHA-256 {digest(split)}")
    known = {image.tobytes() for image in dataset.train.images}
    if shared := sum(image.tobytes() in known for image in dataset.test.images):
        print(f"{shared} test images are also training images, which makes errors look lower")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("download"):
        main()
