"""CIFAR-100 in each of its published forms, and proof that it is CIFAR-100."""

import hashlib
import io
import pickle
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from stages.lib.sources.canonical import Dataset, Split, canonical, digest
from stages.lib.sources.downloads import fetch

# The page that publishes the archive and its MD5: https://www.cs.toronto.edu/~kriz/cifar.html
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
TARBALL_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
FILE_MD5S = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
MIRROR = "https://huggingface.co/datasets/uoft-cs/cifar100/resolve/main/cifar100"
# What `digest` gives for the whole of CIFAR-100 in canonical order.
SHA256S = {
    "train": "e8f89626d393adb13d7dab801c95b724b752e5795feae69b118bd34678f1b0ea",
    "test": "461341e8dcb42e44fd081b6a6d746918b70aa3e9b284d99eccc1bdfc670d4b60",
}
# The official `meta` file's names; the parquet files carry none.
CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905 - a hundred lines as a list
)


def read_cifar100(
    folder: Path,
    *,
    md5: str = TARBALL_MD5,
    md5s: Mapping[str, str] = FILE_MD5S,
    sha256s: Mapping[str, str] = SHA256S,
) -> Dataset:
    """Read CIFAR-100 from a local folder, in whichever of its published forms it is there.

    Args:
        md5: Expected digest of the archive.
        md5s: Expected digests of the extracted files.
        sha256s: Expected digests of the images, whatever form they came in.

    Raises:
        ValueError: If the folder holds none of them, or something else than CIFAR-100.
    """
    folder = folder.expanduser().resolve()
    extracted = [path for path in (folder / "cifar-100-python", folder) if (path / "train").is_file()]
    if (tarball := folder / "cifar-100-python.tar.gz").is_file():
        dataset = read_tarball(tarball, md5=md5)
    elif extracted:
        dataset = read_extracted(extracted[0], md5s=md5s)
    elif any(folder.glob("train-*.parquet")):
        dataset = read_parquet(folder)
    else:
        raise ValueError(
            "CIFAR100_DIR must be a folder with cifar-100-python.tar.gz, cifar-100-python/, or train-*.parquet and "
            f"test-*.parquet, got {folder} ({'has none' if folder.is_dir() else 'no folder'}); "
            "correct it, or unset it to download"
        )
    _verify(dataset, sha256s, source=str(folder))
    return dataset


def download_cifar100(
    cache: Path,
    *,
    url: str = URL,
    md5: str = TARBALL_MD5,
    mirror: str = MIRROR,
    sha256s: Mapping[str, str] = SHA256S,
) -> Dataset:
    """Read CIFAR-100 from its official site, or where that fails, from the Hub's parquet files.

    Args:
        cache: Folder where downloads are kept; what is already there is checked again and not fetched again.

    Raises:
        OSError: If neither can be reached.
        ValueError: If the mirror's files are something else; they are deleted.
    """
    tarball = cache / "cifar-100-python.tar.gz"
    try:
        fetch(url, tarball, md5=md5)
        dataset = read_tarball(tarball, md5=md5)
        _verify(dataset, sha256s, source=url)
        return dataset
    except (OSError, ValueError) as error:
        print(f"{error}; trying the mirror", file=sys.stderr, flush=True)
    files = [cache / f"{split}-00000-of-00001.parquet" for split in ("train", "test")]
    try:
        for file in files:
            fetch(f"{mirror}/{file.name}", file, md5=None)
    except OSError as error:
        raise OSError(f"{error}; get CIFAR-100 elsewhere and set CIFAR100_DIR to its folder") from error
    try:
        dataset = read_parquet(cache)
        _verify(dataset, sha256s, source=mirror)
    except ValueError:
        for file in files:
            file.unlink()
        raise
    return dataset


def read_tarball(path: Path, *, md5: str = TARBALL_MD5) -> Dataset:
    """Read the official archive, in memory: nothing is extracted to disk.

    Raises:
        ValueError: If the file has another MD5 (nothing in it is opened then), or lacks a member.
    """
    files: dict[str, bytes] = {}
    # As a stream, since going back in a gzip file means decompressing it again.
    with tarfile.open(fileobj=io.BytesIO(_verified_bytes(path, md5)), mode="r|gz") as archive:
        for member in archive:
            folder, _, name = member.name.partition("/")
            wanted = folder == "cifar-100-python" and name in FILE_MD5S
            if wanted and (content := archive.extractfile(member)) is not None:
                files[name] = content.read()
    if missing := FILE_MD5S.keys() - files.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; get it again from {URL}")
    return _from_pickles(files)


def read_extracted(folder: Path, *, md5s: Mapping[str, str] = FILE_MD5S) -> Dataset:
    """Read the folder that the official archive extracts to.

    Raises:
        ValueError: If a file is missing, or not the one with its MD5; it is not opened then.
    """
    try:
        return _from_pickles({name: _verified_bytes(folder / name, md5) for name, md5 in md5s.items()})
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing; get it again from {URL}") from None


def read_parquet(folder: Path, *, classes: tuple[str, ...] = CLASSES) -> Dataset:
    """Read `train-*.parquet` and `test-*.parquet`, columns `img` {bytes, path}, `fine_label`.

    Source: https://huggingface.co/datasets/uoft-cs/cifar100

    Raises:
        ValueError: If a file is missing or unreadable.
    """
    return Dataset(_parquet_split(folder, "train"), _parquet_split(folder, "test"), classes)


def _parquet_split(folder: Path, split: str) -> Split:
    paths = sorted(folder.glob(f"{split}-*.parquet"))
    if not paths:
        raise ValueError(f"{folder} must hold {split}-*.parquet; add it")
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for path in paths:
        try:
            table = pq.read_table(path, columns=["img", "fine_label"])
            labels += table["fine_label"].to_pylist()
            print(f"decoding {table.num_rows} images of {path}", file=sys.stderr, flush=True)
            for png in tqdm(pc.struct_field(table["img"], "bytes").to_pylist(), unit="image", disable=None):
                with Image.open(io.BytesIO(png)) as image:
                    if image.size != (32, 32):  # known before anything is decoded
                        raise ValueError(f"an image must have 32 x 32 pixels, got {image.size}")
                    images.append(np.asarray(image.convert("RGB")))
        except Exception as error:  # decoders raise whatever they stumble over
            raise ValueError(f"{path} is not a CIFAR-100 parquet file ({error}); get it again") from error
    return canonical(np.stack(images), np.array(labels))


def _verified_bytes(path: Path, md5: str) -> bytes:
    content = path.read_bytes()
    if (got := hashlib.md5(content).hexdigest()) != md5:
        raise ValueError(f"{path} must have the MD5 {md5}, got {got}; get it again from {URL}")
    return content


_PICKLE_GLOBALS: dict[tuple[str, str], Any] = {
    # Taken from an array, since NumPy 2 warns when its old module's name is imported.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain values, and calls nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLE_GLOBALS:
            raise ValueError(f"CIFAR-100's pickles may hold NumPy arrays only, got {module}.{name}; not opened")
        return _PICKLE_GLOBALS[module, name]


def _from_pickles(files: Mapping[str, bytes]) -> Dataset:
    train, test, meta = (
        # Written by Python 2: its strings are bytes.
        _ArrayUnpickler(io.BytesIO(files[name]), encoding="bytes").load()
        for name in ("train", "test", "meta")
    )
    train_split, test_split = (
        # Stored as (N, 3 * 32 * 32), channel first.
        canonical(batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(batch[b"fine_labels"]))
        for batch in (train, test)
    )
    return Dataset(train_split, test_split, tuple(name.decode() for name in meta[b"fine_label_names"]))


def _verify(dataset: Dataset, sha256s: Mapping[str, str], *, source: str) -> None:
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        if (got := digest(split)) != sha256s[name]:
            raise ValueError(f"{source}: {name} images must have SHA-256 {sha256s[name]}, got {got}; get them again")
