"""Export a model to ONNX and quantize it to int8: `python -m stages.quantize base`."""

import argparse
import json
from pathlib import Path
from typing import get_args

from stages.lib.errors import one_line_errors
from stages.lib.params import Model, load_params

SEED = 0  # of the choice of calibration images


def main() -> None:
    """Read data/train.npz and the model, write its fp32 and its int8 ONNX file, and how the latter was calibrated."""
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=get_args(Model))
    name = parser.parse_args().model

    import numpy as np

    from stages.lib.checkpoint import load_model
    from stages.lib.data import read_images, split_validation
    from stages.lib.export import export_onnx
    from stages.lib.files import replacing
    from stages.lib.packing import pack
    from stages.lib.quantization import choose_calibration

    fp32_path, int8_path = (Path(f"artifacts/{precision}/{name}.onnx") for precision in ("fp32", "int8"))
    images = read_images(Path("data/train.npz"))
    train, validation = split_validation(images, per_class=params.data.val_per_class, seed=params.data.seed)
    # At random, so spread over the classes; all of them where there are fewer than asked for.
    chosen = np.random.default_rng(SEED).permutation(len(train))[: max(params.quantize.calibration_images)]

    print(f"exporting {name}", flush=True)
    export_onnx(load_model(Path(f"artifacts/models/{name}.safetensors")), fp32_path, classes=images.classes)
    print(f"quantizing {name}", flush=True)
    facts = choose_calibration(
        fp32_path,
        int8_path,
        calibration=train.pixels[chosen],
        validation=validation,
        methods=params.quantize.calibration_methods,
        counts=params.quantize.calibration_images,
        bias_correction=params.quantize.bias_correction,
        reduce_range=params.quantize.reduce_range,
    )
    # Of every model, so that a sparse one that ships packed can be compared with the others.
    facts["packed_bytes"] = {path.parent.name: len(pack(path.read_bytes())) for path in (fp32_path, int8_path)}
    with replacing(Path(f"artifacts/quantization/{name}.json")) as output:
        output.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"chosen: {facts['calibration_method']} of {facts['calibration_images']} images")
    print(", ".join(f"{path}: {path.stat().st_size / 1e6:.2f} MB" for path in (fp32_path, int8_path)))


if __name__ == "__main__":
    with one_line_errors("quantize"):
        main()
