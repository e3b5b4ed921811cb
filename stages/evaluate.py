"""Measure the test accuracy of one model in one precision: `python -m stages.evaluate base int8`."""

import argparse

from stages.lib.artifacts import TEST_IMAGES, evaluation_path, onnx_path, write_json
from stages.lib.images import read_images
from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.params import load_params
from stages.lib.runtime.evaluation import evaluate
from stages.lib.stage import one_line_errors


def main() -> None:
    """Read data/test.npz and an ONNX file, write the model's errors."""
    load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("precision", choices=PRECISIONS)
    args = parser.parse_args()

    images = read_images(TEST_IMAGES)
    errors = evaluate(onnx_path(args.model, args.precision), images)
    write_json(evaluation_path(args.model, args.precision), errors)
    top5 = f", top-5 error {errors['top5_error_pct']:.2f} %" if len(images.classes) > 5 else ""  # else 0 for any model
    print(f"{variant_name(args.model, args.precision)}: top-1 error {errors['top1_error_pct']:.2f} %{top5}")


if __name__ == "__main__":
    with one_line_errors("evaluate"):
        main()
