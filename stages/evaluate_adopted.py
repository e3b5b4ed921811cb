"""Measure the test accuracy of classifiers from elsewhere: `python -m stages.evaluate_adopted`."""

import argparse

from stages.lib.artifacts import TEST_IMAGES, adopted_evaluation_path, adopted_path, write_json
from stages.lib.images import read_images
from stages.lib.models import PRECISIONS, variant_name
from stages.lib.params import load_params
from stages.lib.runtime.evaluation import evaluate
from stages.lib.stage import one_line_errors


def main() -> None:
    """Read data/test.npz and the ONNX files of stage adopt, write their errors."""
    params = load_params()
    images = read_images(TEST_IMAGES)
    errors = {}
    for name in params.external:
        for precision in PRECISIONS:
            variant = variant_name(name, precision)
            errors[variant] = evaluate(adopted_path(name, precision), images)
            print(f"{variant}: top-1 error {errors[variant]['top1_error_pct']:.2f} %", flush=True)
    write_json(adopted_evaluation_path(), {"variants": errors})


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("evaluate_adopted"):
        main()
