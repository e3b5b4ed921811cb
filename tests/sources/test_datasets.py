"""Sources of images, on small archives in the official formats."""

import hashlib
import io
import os
import pickle
import tarfile
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from stages import download
from stages.lib.sources import cifar100
from stages.lib.sources import datasets as sources
from stages.lib.sources.canonical import Dataset, Split, canonical, digest, limit

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "cifar100"
COARSE = """aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
    large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
    vehicles_1 vehicles_2"""
PER_CLASS = {"train": 5, "test": 2}
CLASSES = ("ant", "bee", "cat")


def python2_pickle(value: Any) -> bytes:
    """Pickle as Python 2's cPickle did, protocol 2, down to the byte: the official files are such pickles."""
    memo = count(1)

    def put() -> bytes:
        return b"q" + bytes([next(memo)])

    def emit(value: Any) -> bytes:
        if isinstance(value, dict):
            head = b"}" + put() + b"("
            return head + b"".join(emit(key) + emit(item) for key, item in value.items()) + b"u"
        if isinstance(value, list):
            head = b"]" + put() + b"("
            return head + b"".join(emit(item) for item in value) + b"e"
        if isinstance(value, str):
            return b"U" + bytes([len(value)]) + value.encode() + put()
        if isinstance(value, int):
            return b"K" + bytes([value])
        assert isinstance(value, np.ndarray)
        shape = b"".join(b"J" + size.to_bytes(4, "little") for size in value.shape)
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
            + shape
            + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
            + value.nbytes.to_bytes(4, "little")
            + value.tobytes()
            + b"tb"
        )

    return b"\x80\x02" + emit(value) + b"."


def tar(path: Path, files: dict[str, bytes]) -> str:
    """Write the archive and give its MD5."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_parquet(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    rows = []
    for image in images:
        png = io.BytesIO()
        Image.fromarray(image).save(png, "png")
        rows.append({"bytes": png.getvalue(), "path": "x.png"})
    pq.write_table(pa.table({"img": rows, "fine_label": labels, "coarse_label": labels}), path)


@pytest.fixture
def pickles() -> dict[str, bytes]:
    """A CIFAR-100 of three classes, as the members of its archive."""
    rng = np.random.default_rng(0)
    files = {"meta": python2_pickle({"fine_label_names": list(CLASSES), "coarse_label_names": list(CLASSES)})}
    for split, per_class in PER_CLASS.items():
        labels = rng.permutation(np.repeat(range(3), per_class))
        data = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        files[split] = python2_pickle({"data": data, "fine_labels": labels.tolist()})
    return files


@pytest.fixture
def small(tmp_path: Path, pickles: dict[str, bytes]) -> Dataset:
    """The same as `pickles`, read from `tmp_path`/small.tar.gz."""
    return cifar100.read_tarball(tmp_path / "small.tar.gz", md5=tar(tmp_path / "small.tar.gz", pickles))


def write_parquets(folder: Path, dataset: Dataset) -> None:
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        shuffled = np.random.default_rng(1).permutation(len(split.labels))
        write_parquet(folder / f"{name}-00000-of-00001.parquet", split.images[shuffled], split.labels[shuffled])


def digests(dataset: Dataset) -> dict[str, str]:
    return {"train": digest(dataset.train), "test": digest(dataset.test)}


def test_class_names_are_those_of_the_official_meta_file() -> None:
    meta = {"fine_label_names": list(cifar100.CLASSES), "coarse_label_names": COARSE.split()}
    assert hashlib.md5(python2_pickle(meta)).hexdigest() == cifar100.FILE_MD5S["meta"]


def test_tarball_keeps_pixels_labels_and_names(tmp_path: Path) -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[2, 5] = (10, 20, 30)  # row 2, column 5
    batch = python2_pickle({"data": image.transpose(2, 0, 1).reshape(1, 3072), "fine_labels": [7]})
    files = {"train": batch, "test": batch, "meta": python2_pickle({"fine_label_names": ["ant"]})}
    dataset = cifar100.read_tarball(tmp_path / "a.tar.gz", md5=tar(tmp_path / "a.tar.gz", files))
    assert np.array_equal(dataset.train.images, image[None])
    assert dataset.train.labels.tolist() == [7]
    assert dataset.classes == ("ant",)


def test_every_form_of_cifar100_gives_the_same_bytes(tmp_path: Path, pickles: dict[str, bytes], small: Dataset) -> None:
    for name, content in pickles.items():
        (tmp_path / name).write_bytes(content)
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in pickles.items()}
    extracted = cifar100.read_extracted(tmp_path, md5s=md5s)
    write_parquets(tmp_path, small)
    parquet = cifar100.read_parquet(tmp_path, classes=CLASSES)
    for other in (extracted, parquet):
        assert digests(other) == digests(small)
        assert other.classes == small.classes
        assert other.train.images.dtype == np.uint8 and other.train.labels.dtype == np.int64
    assert len(small.train.labels) == 15 and len(small.test.labels) == 6


def test_cifar100_dir_is_read_in_whichever_form_it_holds(
    tmp_path: Path, pickles: dict[str, bytes], small: Dataset
) -> None:
    folders = {name: tmp_path / name for name in ("tarball", "extracted", "inside", "parquet")}
    for folder in folders.values():
        (folder / "cifar-100-python").mkdir(parents=True)
    md5 = tar(folders["tarball"] / "cifar-100-python.tar.gz", pickles)
    for name, content in pickles.items():
        (folders["extracted"] / "cifar-100-python" / name).write_bytes(content)
        (folders["inside"] / name).write_bytes(content)
    write_parquets(folders["parquet"], small)
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in pickles.items()}
    for folder in folders.values():
        dataset = cifar100.read_cifar100(folder, md5=md5, md5s=md5s, sha256s=digests(small))
        assert digests(dataset) == digests(small)


def test_canonical_order_breaks_ties_by_label() -> None:
    images = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    assert canonical(images, np.array([2, 0, 1])).labels.tolist() == [0, 1, 2]


class Evil:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.victim),)


def test_archive_with_another_digest_is_not_opened(tmp_path: Path, pickles: dict[str, bytes]) -> None:
    tar(tmp_path / "a.tar.gz", pickles | {"train": pickle.dumps(Evil(tmp_path / "harm"))})
    with pytest.raises(ValueError, match="must have the MD5 eb9058c3a382ffc7106e4002c42a8d85, got"):
        cifar100.read_tarball(tmp_path / "a.tar.gz")
    assert not (tmp_path / "harm").exists()


def test_pickle_cannot_run_anything_even_with_the_right_digest(tmp_path: Path, pickles: dict[str, bytes]) -> None:
    md5 = tar(tmp_path / "a.tar.gz", pickles | {"train": pickle.dumps(Evil(tmp_path / "harm"))})
    with pytest.raises(ValueError, match=r"NumPy arrays only, got posix\.mkdir"):
        cifar100.read_tarball(tmp_path / "a.tar.gz", md5=md5)
    assert not (tmp_path / "harm").exists()


def test_extracted_file_with_another_digest_is_not_opened(tmp_path: Path, pickles: dict[str, bytes]) -> None:
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in pickles.items()}
    for name, content in (pickles | {"meta": pickle.dumps(Evil(tmp_path / "harm"))}).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="meta must have the MD5"):
        cifar100.read_extracted(tmp_path, md5s=md5s)
    assert not (tmp_path / "harm").exists()


def test_an_extracted_folder_that_lacks_a_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train is missing; get it again from https://"):
        cifar100.read_extracted(tmp_path)


def test_truncated_archive_is_refused(tmp_path: Path, pickles: dict[str, bytes]) -> None:
    path = tmp_path / "a.tar.gz"
    md5 = tar(path, pickles)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"must have the MD5 {md5}"):
        cifar100.read_tarball(path, md5=md5)


def test_missing_member_is_named(tmp_path: Path, pickles: dict[str, bytes]) -> None:
    del pickles["test"]
    md5 = tar(tmp_path / "a.tar.gz", pickles)
    with pytest.raises(ValueError, match="lacks test"):
        cifar100.read_tarball(tmp_path / "a.tar.gz", md5=md5)


@pytest.mark.parametrize("folder", ["empty", "nowhere"])
def test_unusable_cifar100_dir_is_an_error_and_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR100_DIR", folder)
    monkeypatch.setattr(cifar100, "fetch", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(ValueError, match=f"CIFAR100_DIR must be a folder with .* got {tmp_path / folder}"):
        sources.load_dataset(name="cifar100")


def test_cifar100_dir_with_other_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Dataset
) -> None:
    write_parquets(tmp_path, small)
    monkeypatch.setenv("CIFAR100_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path}: train images must have SHA-256"):
        sources.load_dataset(name="cifar100")


@pytest.mark.parametrize("place", ["cifar-100-python", "."])
def test_cifar100_dir_may_hold_or_be_the_extracted_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "train").write_bytes(b"something else")
    with pytest.raises(ValueError, match="train must have the MD5 16019d7e3df5f24257cddd939b257f8d"):
        cifar100.read_cifar100(tmp_path)


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"train-0\.parquet is not a CIFAR-100 parquet file"):
        cifar100.read_parquet(tmp_path)


def test_parquet_without_its_test_half_is_refused(tmp_path: Path, small: Dataset) -> None:
    write_parquets(tmp_path, small)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"must hold test-\*\.parquet"):
        cifar100.read_parquet(tmp_path)


def serve(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    """Stand in for the network: `files` by URL, anything else is unreachable."""

    def fetch(url: str, path: Path, **_: object) -> None:
        if url not in files:
            raise OSError(f"{url} is unreachable")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(files[url].read_bytes())

    monkeypatch.setattr(cifar100, "fetch", fetch)


def test_official_archive_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Dataset) -> None:
    serve(monkeypatch, {"official": tmp_path / "small.tar.gz"})
    md5 = hashlib.md5((tmp_path / "small.tar.gz").read_bytes()).hexdigest()
    dataset = cifar100.download_cifar100(
        tmp_path / "cache", url="official", md5=md5, mirror="mirror", sha256s=digests(small)
    )
    assert digests(dataset) == digests(small)


def test_mirror_is_taken_if_the_official_site_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Dataset
) -> None:
    write_parquets(tmp_path, small)
    serve(monkeypatch, {f"mirror/{path.name}": path for path in tmp_path.glob("*.parquet")})
    dataset = cifar100.download_cifar100(tmp_path / "cache", mirror="mirror", sha256s=digests(small))
    assert digests(dataset) == digests(small)


def test_other_images_from_the_mirror_are_refused_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Dataset
) -> None:
    write_parquets(tmp_path, small)
    serve(monkeypatch, {f"mirror/{path.name}": path for path in tmp_path.glob("*.parquet")})
    with pytest.raises(ValueError, match="mirror: train images must have SHA-256"):
        cifar100.download_cifar100(tmp_path / "cache", mirror="mirror")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("side", [33, 30_000])
def test_images_of_another_size_from_the_mirror_are_not_decoded_but_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Dataset, side: int
) -> None:
    write_parquets(tmp_path, small)
    bomb = io.BytesIO()
    Image.new("1", (side, side)).save(bomb, "png")
    rows = {"img": [{"bytes": bomb.getvalue(), "path": "x.png"}], "fine_label": [0], "coarse_label": [0]}
    pq.write_table(pa.table(rows), tmp_path / "test-00000-of-00001.parquet")
    serve(monkeypatch, {f"mirror/{path.name}": path for path in tmp_path.glob("*.parquet")})
    with pytest.raises(ValueError, match=r"test-00000-of-00001\.parquet is not a CIFAR-100 parquet file"):
        cifar100.download_cifar100(tmp_path / "cache", mirror="mirror")
    assert not list((tmp_path / "cache").glob("*.parquet"))


def test_error_without_any_network_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, {})
    with pytest.raises(OSError, match="set CIFAR100_DIR"):
        cifar100.download_cifar100(tmp_path)


def test_digits_are_split_four_to_one_in_every_class() -> None:
    digits = sources.read_digits()
    train, test = (np.bincount(split.labels) for split in (digits.train, digits.test))
    assert np.array_equal(train + test, np.bincount(load_digits().target))
    assert np.array_equal(train, np.round(0.8 * (train + test)))
    assert digits.train.images.shape == (1438, 32, 32, 3) and digits.train.images.dtype == np.uint8
    assert digits.train.images.max() == 255
    assert digits.classes == tuple("0123456789")


def test_digits_are_the_same_every_time() -> None:
    assert digests(sources.read_digits()) == digests(sources.read_digits())


def test_digits_come_in_any_size() -> None:
    assert sources.load_dataset(name="digits", image_size=64, limit_per_class=1).train.images.shape == (10, 64, 64, 3)


def test_limit_keeps_the_first_of_each_class_in_order() -> None:
    split = Split(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), np.array([0, 1, 0, 1, 0, 2]))
    limited = limit(split, 2)
    assert limited.images.ravel().tolist() == [0, 1, 2, 3, 5]
    assert limited.labels.tolist() == [0, 1, 0, 1, 2]


def test_limit_applies_to_train_and_test() -> None:
    digits = sources.load_dataset(name="digits", limit_per_class=3)
    assert np.bincount(digits.train.labels).tolist() == np.bincount(digits.test.labels).tolist() == [3] * 10


def test_written_images_are_the_same_bytes_every_time_and_need_no_pickle(tmp_path: Path) -> None:
    split = Split(np.zeros((2, 32, 32, 3), dtype=np.uint8), np.array([0, 1]))
    for name in ("a.npz", "b.npz"):
        download.write_split(tmp_path / name, split, ("cat", "dog"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["images"].dtype == np.uint8 and arrays["labels"].dtype == np.int64
        assert arrays["classes"].tolist() == ["cat", "dog"]


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the local copy of CIFAR-100")
def test_real_cifar100_has_the_stated_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR100_DIR", str(REAL))
    dataset = sources.load_dataset(name="cifar100")  # raises if they differ
    assert np.bincount(dataset.train.labels).tolist() == [500] * 100
    assert np.bincount(dataset.test.labels).tolist() == [100] * 100
    assert dataset.classes == cifar100.CLASSES
