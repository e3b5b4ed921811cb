"""Bring classifiers from elsewhere to the form of our own and quantize them: `python -m stages.adopt`."""

import argparse

from stages.lib.artifacts import CLASSIFIERS, adopted_path, adoption_path, user_path, write_json
from stages.lib.params import load_params
from stages.lib.stage import one_line_errors

SEED = 0  # of the choice of calibration images


def main() -> None:
    """Read data/train.npz and the files of section external, write each in fp32 and int8, and what they are."""
    params = load_params()
    facts = {}
    if params.external:
        import numpy as np

        from stages.lib.images import read_training_images
        from stages.lib.models import PRECISIONS
        from stages.lib.quantization.external import INT8_OPERATORS, adopt_onnx
        from stages.lib.quantization.static import choose_calibration

        train, validation = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
        chosen = np.random.default_rng(SEED).permutation(len(train))[: max(params.quantize.calibration_images)]
    for name, external in params.external.items():
        print(f"quantizing {name}", flush=True)
        fp32_path, int8_path = (adopted_path(name, precision) for precision in PRECISIONS)
        costs = adopt_onnx(
            user_path(CLASSIFIERS / external.path),
            fp32_path,
            layout=external.layout,
            mean=external.mean,
            std=external.std,
            image_size=train.size,
            classes=train.classes,
        )
        facts[name] = costs | choose_calibration(
            fp32_path,
            int8_path,
            calibration=train.pixels[chosen],
            validation=validation,
            recipe=params.quantize,
            operators=INT8_OPERATORS,
        )
        print(f"{name}: {len(facts[name]['float_layers'])} layers left in float", flush=True)
    write_json(adoption_path(), {"models": facts})


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("adopt"):
        main()
