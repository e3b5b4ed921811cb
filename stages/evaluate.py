"""Measure the test accuracy of one model in one precision: `python -m stages.evaluate base int8`."""

import argparse
import json
from pathlib import Path
from typing import get_args

import numpy as np

from stages.lib.data import read_images
from stages.lib.errors import one_line_errors
from stages.lib.files import replacing
from stages.lib.inference import classify, error_pct, file_sha256, find_missed, open_session
from stages.lib.params import Model, Precision, load_params, variant_name

BATCH_SIZE = 100


def main() -> None:
    """Read data/test.npz and an ONNX file, write the model's errors."""
    load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=get_args(Model))
    parser.add_argument("precision", choices=get_args(Precision))
    args = parser.parse_args()

    images = read_images(Path("data/test.npz"))
    path = Path(f"artifacts/{args.precision}/{args.model}.onnx")
    session = open_session(path, threads=0)
    logits = classify(session, images.pixels, batch_size=BATCH_SIZE)
    errors = {
        "top1_error_pct": error_pct(logits, images.labels, top=1),
        "top5_error_pct": error_pct(logits, images.labels, top=5),
        "num_images": len(images),
        "missed_hex": np.packbits(find_missed(logits, images.labels, top=1)).tobytes().hex(),
        "file_sha256": file_sha256(path),
    }
    with replacing(Path(f"artifacts/evaluation/{args.model}-{args.precision}.json")) as output:
        output.write_text(json.dumps(errors, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    name = variant_name(args.model, args.precision)
    top5 = f", top-5 error {errors['top5_error_pct']:.2f} %" if len(images.classes) > 5 else ""  # else 0 for any model
    print(f"{name}: top-1 error {errors['top1_error_pct']:.2f} %{top5}")


if __name__ == "__main__":
    with one_line_errors("evaluate"):
        main()
