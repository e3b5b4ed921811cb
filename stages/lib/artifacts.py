"""Where everything lies, and files that appear whole or not at all."""

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

TRAIN_IMAGES = Path("data/train.npz")
TEST_IMAGES = Path("data/test.npz")
CHECKPOINTS = Path("external/checkpoints")  # that training may begin with
CLASSIFIERS = Path("external/onnx")  # from elsewhere
REPORTS = Path("reports")
METRICS = Path("metrics.json")
LATENCIES = REPORTS / "latency.json"
MACHINES = REPORTS / "machines"
_ARTIFACTS = Path("artifacts")


def compressed_path(model: str) -> Path:
    """A pruned or factorized model before its fine-tuning."""
    return _ARTIFACTS / "compressed" / f"{model}.safetensors"


def compression_path(model: str) -> Path:
    """What pruning or factorization did to it."""
    return _ARTIFACTS / "compression" / f"{model}.json"


def model_path(model: str) -> Path:
    """A trained model."""
    return _ARTIFACTS / "models" / f"{model}.safetensors"


def training_path(model: str) -> Path:
    """What training it took."""
    return _ARTIFACTS / "training" / f"{model}.json"


def curve_path(model: str) -> Path:
    """Its training, epoch by epoch."""
    return REPORTS / "curves" / f"{model}.csv"


def onnx_path(model: str, precision: str) -> Path:
    """Its ONNX file."""
    return _ARTIFACTS / precision / f"{model}.onnx"


def packed_path(model: str, precision: str) -> Path:
    """That file packed."""
    return _ARTIFACTS / "packed" / f"{model}-{precision}.onnx.packed"


def quantization_path(model: str) -> Path:
    """How its int8 file was calibrated."""
    return _ARTIFACTS / "quantization" / f"{model}.json"


def evaluation_path(model: str, precision: str) -> Path:
    """Its errors on the test images."""
    return _ARTIFACTS / "evaluation" / f"{model}-{precision}.json"


def adopted_path(name: str, precision: str) -> Path:
    """The ONNX file of a classifier from elsewhere."""
    return _ARTIFACTS / "adopted" / f"{name}-{precision}.onnx"


def adoption_path() -> Path:
    """What all of these are."""
    return _ARTIFACTS / "adopted" / "facts.json"


def adopted_evaluation_path() -> Path:
    """Their errors on the test images."""
    return _ARTIFACTS / "evaluation" / "adopted.json"


def profile_path() -> Path:
    """What all variants cost."""
    return _ARTIFACTS / "profile.json"


def cuda_profile_path() -> Path:
    """What the models took on a GPU, measured apart on any machine that has one."""
    return REPORTS / "profile-cuda.json"


def file_sha256(path: Path) -> str:
    """What identifies a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed to it if the block succeeds and deleted if it does not.

    Each process has a name of its own, so that two never write to one file; what a killed one left is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.{platform.node()}-"
    for stray in path.parent.glob(f"{prefix}*.tmp"):
        pid = stray.name.removeprefix(prefix).removesuffix(".tmp")
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            stray.unlink(missing_ok=True)
    temporary = path.with_name(f"{prefix}{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[Path]:
    """Hold a lock on a file for as long as the block runs; it ends with the process at the latest.

    Raises:
        BlockingIOError: If `kind` has LOCK_NB, so does not wait, and another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, kind)
            try:
                is_current = os.fstat(file.fileno()).st_ino == path.stat().st_ino
            except FileNotFoundError:
                is_current = False
            if is_current:  # else another process has deleted the file meanwhile
                yield path
                return


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` with sorted keys: the same values give the same bytes."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        ValueError: If the file holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold JSON ({error}); run dvc repro to write it again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object, got {type(values).__name__}; run dvc repro to write it again")
    return values


def user_path(path: str | Path) -> Path:
    """A path that the user gave, relative to their repository: DVC may run an experiment in a folder deep inside it."""
    parts = Path.cwd().parts
    inside = [i for i in range(len(parts)) if parts[i : i + 3] == (".dvc", "tmp", "exps")]
    return Path(*parts[: inside[0]] if inside else parts, Path(path).expanduser())


def cache_folder() -> Path:
    """The user's cache folder for this project, where downloads and resume files outlive a stage.

    Raises:
        ValueError: If the user has no home.
    """
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry for this user
        raise ValueError("HOME must name a folder for caches, got none; set HOME or XDG_CACHE_HOME") from None
    return Path(cache) / "googlenet-compression"
