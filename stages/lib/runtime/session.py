"""ONNX models run by ONNX Runtime on the CPU. Nothing here imports torch."""

import hashlib
import os
from pathlib import Path

import numpy as np
import onnxruntime

from stages.lib.artifacts import read_json
from stages.lib.runtime.packing import unpack
from stages.lib.stage import track

CALIBRATION_BINS = 15
PACKED = ".packed"  # the suffix of the files of `stages.pack`


def open_session(path: Path, *, threads: int, profile: Path | None = None) -> onnxruntime.InferenceSession:
    """Load a model of `stages.quantize`, or of `stages.pack`, which is restored in memory.

    Args:
        threads: Of one operator; 0 for OMP_NUM_THREADS or, without it, for a thread on each core.
        profile: How the file begins that `end_profiling` writes; None for no profiling.

    Raises:
        ValueError: If the file is missing, no ONNX model, or a damaged packed one.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0)
    options.log_severity_level = 3  # errors only
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        model = unpack(path.read_bytes()) if path.suffix == PACKED else path
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class of their own
        raise ValueError(
            f"{path} must be an ONNX model written by this pipeline ({error}); "
            "check the path, or run dvc pull --allow-missing"
        ) from None


def read_model(path: Path) -> bytes:
    """The bytes of an ONNX file, restored if it is packed.

    Raises:
        ValueError: If a packed file is damaged.
    """
    content = path.read_bytes()
    if path.suffix != PACKED:
        return content
    try:
        return unpack(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_evaluated(path: Path, evaluation: Path) -> bytes:
    """The bytes of an ONNX file, restored if it is packed, that `stages.evaluate` recorded in `evaluation`.

    Raises:
        ValueError: If a packed file is damaged, or another file was evaluated.
    """
    model = read_model(path)
    check_evaluated(path, hashlib.sha256(model).hexdigest(), read_json(evaluation).get("file_sha256"))
    return model


def check_evaluated(path: Path, found: str, recorded: str | None) -> None:
    """Refuse a file other than the one that was evaluated.

    Raises:
        ValueError: If its digest is another.
    """
    if found != recorded:
        raise ValueError(f"{path} must hold the file that was evaluated, got another; run dvc repro")


def classify(session: onnxruntime.InferenceSession, images: np.ndarray, *, batch_size: int) -> np.ndarray:
    """Logits float32 (N, num_classes) of `images` uint8 (N, S, S, 3)."""
    starts = track(range(0, len(images), batch_size), unit="batch")
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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of the classes, (N, num_classes)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def calibration_error_pct(logits: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, on average over images.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: images are put in 15 bins of equal width by the
    probability of the predicted class.
    """
    probabilities = softmax(logits)
    confidences = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidences * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidences - correct, minlength=CALIBRATION_BINS)
    return 100 * float(np.abs(gaps).sum()) / len(labels)


def error_pct(logits: np.ndarray, labels: np.ndarray, *, top: int) -> float:
    """Percentage of images that `find_missed` finds."""
    return 100 * float(find_missed(logits, labels, top=top).mean())
