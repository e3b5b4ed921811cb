"""Image files and the validation split."""

from pathlib import Path

import numpy as np
import pytest

from stages.download import write_split
from stages.lib.images import Images, Rows, channel_statistics, random_batch, read_images, split_validation
from stages.lib.sources.canonical import Split


def test_read_gives_back_what_download_wrote(tmp_path: Path, images: Images) -> None:
    write_split(tmp_path / "train.npz", Split(images.pixels, images.labels), images.classes)
    read = read_images(tmp_path / "train.npz")
    assert np.array_equal(read.pixels, images.pixels)
    assert np.array_equal(read.labels, images.labels)
    assert read.classes == images.classes


def test_pixels_stay_in_their_file_until_they_are_read(tmp_path: Path, images: Images) -> None:
    write_split(tmp_path / "train.npz", Split(images.pixels, images.labels), images.classes)
    read = read_images(tmp_path / "train.npz")
    train, _ = split_validation(read, per_class=4, seed=1)
    assert isinstance(read.pixels, np.memmap)
    assert isinstance(train.pixels, Rows) and train.pixels.array is read.pixels
    in_memory, _ = split_validation(images, per_class=4, seed=1)
    assert np.array_equal(train.pixels[np.array([3, 0])], in_memory.pixels[:][[3, 0]])
    assert train.digest() == in_memory.digest() != images.digest()


def test_a_flipped_bit_is_an_error(tmp_path: Path, images: Images) -> None:
    write_split(tmp_path / "train.npz", Split(images.pixels, images.labels), images.classes)
    content = bytearray((tmp_path / "train.npz").read_bytes())
    content[1000] ^= 1
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.npz must hold the images .*; run dvc repro --force download$"):
        read_images(tmp_path / "train.npz")


@pytest.mark.parametrize("content", [b"nonsense", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_an_error_that_names_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.npz must hold the images .*; run dvc repro --force download$"):
        read_images(tmp_path / "train.npz")


def test_validation_holds_out_the_same_images_of_each_class_for_a_seed(images: Images) -> None:
    train, val = split_validation(images, per_class=4, seed=1)
    assert np.bincount(val.labels).tolist() == [4, 4, 4]
    assert len(train) + len(val) == len(images)
    together = {image.tobytes() for image in np.concatenate([train.pixels[:], val.pixels[:]])}
    assert together == {image.tobytes() for image in images.pixels}
    again, other = (split_validation(images, per_class=4, seed=seed)[1] for seed in (1, 2))
    assert np.array_equal(val.pixels[:], again.pixels[:])
    assert not np.array_equal(val.pixels[:], other.pixels[:])


def test_validation_that_leaves_nothing_to_train_on_is_an_error(images: Images) -> None:
    with pytest.raises(ValueError, match=r"data\.val_per_class must be below the 10 training images of class 'ant'"):
        split_validation(images, per_class=10, seed=0)


def test_a_random_batch_has_images_and_labels_in_the_order_of_the_seed(images: Images) -> None:
    pixels, labels = random_batch(images, 12, seed=3)
    chosen = np.random.default_rng(3).permutation(30)[:12]
    assert np.allclose(pixels.permute(0, 2, 3, 1), images.pixels[chosen] / 255)
    assert labels.tolist() == images.labels[chosen].tolist() != images.labels[:12].tolist()
    assert len(random_batch(images, 1000, seed=3)[1]) == 30


def test_channel_statistics_are_those_of_the_pixels(images: Images) -> None:
    mean, std = channel_statistics(images)
    assert np.allclose(mean, (images.pixels / 255).mean(axis=(0, 1, 2)))
    assert np.allclose(std, (images.pixels / 255).std(axis=(0, 1, 2)))
