"""What an ONNX model makes of labelled images."""

from pathlib import Path
from typing import Any

from stages.lib.artifacts import file_sha256
from stages.lib.images import Images
from stages.lib.runtime.session import calibration_error_pct, classify, error_pct, open_session

BATCH_SIZE = 100


def evaluate(path: Path, images: Images) -> dict[str, Any]:
    """Errors in percent, and the prediction for each image, of the model in an ONNX file."""
    logits = classify(open_session(path, threads=0), images.pixels[:], batch_size=BATCH_SIZE)
    return {
        "top1_error_pct": error_pct(logits, images.labels, top=1),
        "top5_error_pct": error_pct(logits, images.labels, top=5),
        "calibration_error_pct": calibration_error_pct(logits, images.labels),
        "num_images": len(images),
        "classes": images.classes,
        "labels": " ".join(map(str, images.labels)),
        "predictions": " ".join(map(str, logits.argmax(axis=1))),
        "file_sha256": file_sha256(path),
    }
