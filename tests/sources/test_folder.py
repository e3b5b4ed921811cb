"""A user's own images."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stages import download
from stages.lib.params import load_params
from stages.lib.sources.canonical import Dataset
from stages.lib.sources.folder import read_folder
from stages.lib.stage import one_line_errors

ROOT = Path(__file__).parents[2]


def read(folder: Path, *, image_size: int = 32, test_share: float | None = None) -> Dataset:
    return read_folder(folder, image_size=image_size, test_share=test_share)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index, name in enumerate(["train/cat", "train/dog", "test/cat", "test/dog"]):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (64, 48), (50 * index, 0, 0)).save(tmp_path / name / "a.png")
        (tmp_path / name / ".hidden").touch()
    return tmp_path


def test_folder_gives_classes_by_name_and_32_by_32_images(photos: Path) -> None:
    Image.new("L", (40, 200), 7).save(photos / "train" / "dog" / "grey.jpg")
    dataset = read(photos)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.images.shape == (3, 32, 32, 3)
    by_label = {label: image[0, 0].tolist() for image, label in zip(*vars(dataset.test).values(), strict=True)}
    assert by_label == {0: [100, 0, 0], 1: [150, 0, 0]}


def test_folder_images_are_turned_upright_and_cut_in_the_middle(photos: Path) -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, 20:40] = 255  # left half of the middle square
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(photos / "test" / "cat" / "a.png", exif=exif)
    dataset = read(photos)
    (image,) = dataset.test.images[dataset.test.labels == 0]
    assert image[:, :14].max() < 10 and image[:, 18:].min() > 240


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_put_on_white(photos: Path, mode: str) -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)  # black, and transparent but for the left half
    pixels[:, :16, 3] = 255
    Image.fromarray(pixels).convert(mode).save(photos / "test" / "cat" / "a.png")
    dataset = read(photos)
    (image,) = dataset.test.images[dataset.test.labels == 0]
    assert image[:, :16].max() == 0 and image[:, 16:].min() == 255


def test_missing_train_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.folder must hold train/CLASS/ with images, found no train/ in .*photo"
    ):
        read(tmp_path / "photo")


def test_without_test_a_share_of_each_class_is_held_out_if_asked_for(photos: Path) -> None:
    shutil.rmtree(photos / "test")
    with pytest.raises(ValueError, match=r"found no test/ in .*; add it, or set data\.test_share"):
        read(photos)
    with pytest.raises(ValueError, match="class 'cat' must have at least 2 images"):
        read(photos, test_share=0.3)
    for name in ("cat", "dog"):
        for i in range(9):
            Image.new("RGB", (40, 40), (i, len(name), 9)).save(photos / "train" / name / f"{i}.png")
    dataset = read(photos, test_share=0.3)
    assert np.bincount(dataset.train.labels).tolist() == [7, 7]
    assert np.bincount(dataset.test.labels).tolist() == [3, 3]


@pytest.mark.parametrize("image_size", [64, 128])
def test_images_have_the_size_that_is_asked_for(photos: Path, image_size: int) -> None:
    assert read(photos, image_size=image_size).train.images.shape == (2, image_size, image_size, 3)


def test_class_missing_in_test_is_named(photos: Path) -> None:
    (photos / "train" / "bird").mkdir()
    with pytest.raises(ValueError, match=r"1 are in one of them only \('bird'\)"):
        read(photos)


def test_one_class_is_too_few(photos: Path) -> None:
    for split in ("train", "test"):
        (photos / split / "dog").rename(photos / split / ".dog")
    with pytest.raises(ValueError, match="at least 2 classes"):
        read(photos)


def test_class_without_images_is_named(photos: Path) -> None:
    (photos / "test" / "dog" / "a.png").unlink()
    with pytest.raises(ValueError, match="test/dog must hold at least one image"):
        read(photos)


def test_class_names_that_only_look_alike_are_told_apart(photos: Path) -> None:
    for split, name in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        shutil.copytree(photos / split / "cat", photos / split / name)
    with pytest.raises(ValueError, match=r"got 'caf\\xe9' and 'cafe\\u0301', which look alike"):
        read(photos)


def test_what_file_managers_leave_behind_is_skipped_with_a_note(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Thumbs.db", "desktop.ini", "a.png:Zone.Identifier", ".DS_Store"):
        (photos / "train" / "cat" / name).write_bytes(b"\xd0\xcf\x11\xe0")
    assert len(read(photos).train.labels) == 2
    assert "cat: Thumbs.db, a.png:Zone.Identifier, desktop.ini" in capsys.readouterr().out


def test_many_classes_of_one_image_each(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for i in range(1000):
            (tmp_path / split / f"{i:03}").mkdir(parents=True)
            Image.new("RGB", (4, 4), (i // 256, i % 256, len(split))).save(tmp_path / split / f"{i:03}" / "a.png")
    dataset = read(tmp_path)
    assert len(dataset.classes) == 1000 and sorted(dataset.test.labels.tolist()) == list(range(1000))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def grow(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path)


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut.png": (cut, "is not a readable image .*; repair or remove it"),
    "empty.jpg": (lambda path: path.write_bytes(b""), "is not an image Pillow can read; remove it"),
    "phone.HEIC": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic"), "can read; convert it to JPEG or PNG"),
    "logo.svg": (lambda path: path.write_text("<svg/>"), "can read; convert it to JPEG or PNG"),
    "more": (lambda path: (path.unlink(), path.mkdir()), "must be an image, got a folder; move its images up"),
    "bomb.png": (grow, "has too many pixels .*; shrink it"),
    "deep.png": (
        lambda path: Image.new("I;16", (40, 40)).save(path),
        "must have 8 bits a channel, got Pillow's mode I",
    ),
    "float.tiff": (lambda path: Image.new("F", (40, 40)).save(path), "must have 8 bits a channel, got Pillow's mode F"),
}


def test_all_unusable_files_are_named_at_once_each_with_its_remedy(photos: Path) -> None:
    for name, (spoil, _) in UNUSABLE.items():
        path = photos / "train" / "cat" / name
        shutil.copy(photos / "train" / "cat" / "a.png", path)
        spoil(path)
    with pytest.raises(SystemExit) as stopped, one_line_errors("download"):
        read(photos)
    lines = str(stopped.value).splitlines()
    assert len(lines) == len(UNUSABLE)
    for name, (_, message) in UNUSABLE.items():
        (line,) = (line for line in lines if f"/{name} " in line)
        assert re.match(f"download: {re.escape(str(photos))}/train/cat/{name} .*{message}", line)


def test_of_many_unusable_files_the_first_are_named_and_the_others_counted(photos: Path) -> None:
    for i in range(30):
        (photos / "train" / "cat" / f"{i:02}.jpg").touch()
    with pytest.raises(ExceptionGroup) as group:
        read(photos)
    assert len(group.value.exceptions) == 21
    assert "10 more files in" in str(group.value.exceptions[-1])


def test_a_name_cannot_command_the_terminal(photos: Path) -> None:
    (photos / "train" / "cat" / "\x1b[2Jx.png").touch()
    with pytest.raises(SystemExit) as stopped, one_line_errors("download"):
        read(photos)
    assert "\x1b" not in str(stopped.value) and r"\x1b[2Jx.png" in str(stopped.value)


def test_download_tells_of_test_images_that_are_trained_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = load_params(ROOT / "presets" / "demo.yaml", complete=False).model_dump(mode="json")
    params["data"].update(name="folder", folder=str(photos))
    Path("params.yaml").write_text(yaml.safe_dump(params))
    download.main()
    assert "are also training images" not in capsys.readouterr().out
    shutil.copy(photos / "test" / "cat" / "a.png", photos / "train" / "cat" / "again.png")
    download.main()
    assert "1 test images are also training images" in capsys.readouterr().out
