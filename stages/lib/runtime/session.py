"""ONNX models run by ONNX Runtime on the CPU. Nothing here imports torch."""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
from tqdm import tqdm

from stages.lib.artifacts import read_json
from stages.lib.runtime.packing import unpack

PACKED = ".packed"  # the suffix of the files of `stages.pack`


def open_session(path: Path, *, threads: int) -> onnxruntime.InferenceSession:
    """Load a model of `stages.quantize`, or of `stages.pack`, which is restored in memory.

    Args:
        threads: Of one operator; 0 for a thread on each core.

    Raises:
        ValueError: If the file is missing, no ONNX model, or a damaged packed one.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        model = read_model(path) if path.suffix == PACKED else path
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class of their own
        raise ValueError(f"{path} must be an ONNX model written by this pipeline ({error}); run dvc repro") from None


def read_model(path: Path) -> bytes:
    """The bytes of an ONNX file, restored if it is packed.

    Raises:
        ValueError: If a packed file is damaged.
    """
    return unpack(path.read_bytes()) if path.suffix == PACKED else path.read_bytes()


def read_evaluated(path: Path, evaluation: Path) -> bytes:
    """The bytes of an ONNX file, restored if it is packed, that `stages.evaluate` recorded in `evaluation`.

    Raises:
        ValueError: If a packed file is damaged, or another file was evaluated.
    """
    model = read_model(path)
    if hashlib.sha256(model).hexdigest() != read_json(evaluation).get("file_sha256"):
        raise ValueError(f"{path} must hold the file that was evaluated, got another; run dvc repro")
    return model


def file_sha256(path: Path) -> str:
    """What identifies a model's file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def classify(session: onnxruntime.InferenceSession, images: np.ndarray, *, batch_size: int) -> np.ndarray:
    """Logits float32 (N, num_classes) of `images` uint8 (N, S, S, 3)."""
    starts = tqdm(range(0, len(images), batch_size), disable=None, leave=False, unit="batch")
    return np.concatenate([session.run(["logits"], {"images": images[i : i + batch_size]})[0] for i in starts])


def find_missed(logits: np.ndarray, labels: np.ndarray, *, top: int) -> np.ndarray:
    """Whether the label is not among the `top` largest logits (or all, where there are fewer), bool (N,).

    Args:
        logits: (N, num_classes); of equal ones the first counts as larger.
        labels: (N,).

    Raises:
        ValueError: If a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite, got NaN or infinity: the model diverged; lower its learning rate")
    guesses = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    missed: np.ndarray = (guesses != labels[:, None]).all(axis=1)
    return missed


def error_pct(logits: np.ndarray, labels: np.ndarray, *, top: int) -> float:
    """Percentage of images that `find_missed` finds."""
    return 100 * float(find_missed(logits, labels, top=top).mean())
