"""Export a model to ONNX and quantize it to int8: `python -m stages.quantize base`."""

import argparse

from stages.lib.models import MODELS, PRECISIONS
from stages.lib.params import load_params
from stages.lib.stage import one_line_errors

SEED = 0  # of the choice of calibration images


def main() -> None:
    """Read data/train.npz and the model, write its fp32 and its int8 ONNX file, and how the latter was calibrated."""
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    name = parser.parse_args().model

    import numpy as np

    from stages.lib.artifacts import model_path, onnx_path, quantization_path, write_json
    from stages.lib.images import read_training_images
    from stages.lib.network.checkpoint import load_model
    from stages.lib.quantization.export import export_onnx
    from stages.lib.quantization.static import choose_calibration
    from stages.lib.runtime.packing import pack

    fp32_path, int8_path = paths = [onnx_path(name, precision) for precision in PRECISIONS]
    train, validation = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    # At random, so spread over the classes; all of them where there are fewer than asked for.
    chosen = np.random.default_rng(SEED).permutation(len(train))[: max(params.quantize.calibration_images)]

    print(f"exporting {name}", flush=True)
    model = load_model(model_path(name))
    export_onnx(model, fp32_path, classes=train.classes, image_size=train.size)
    print(f"quantizing {name}", flush=True)
    facts = choose_calibration(
        fp32_path,
        int8_path,
        calibration=train.pixels[chosen],
        validation=validation,
        recipe=params.quantize,
        weight_levels=model.architecture.weight_levels,
    )
    if name == "base":  # so that sparse models, which ship packed, can be compared with it
        facts["packed_bytes"] = {path.parent.name: len(pack(path.read_bytes())) for path in paths}
    write_json(quantization_path(name), facts)
    print(f"chosen: {facts['calibration_method']} of {facts['calibration_images']} images")
    print(", ".join(f"{path}: {path.stat().st_size / 1e6:.2f} MB" for path in paths))


if __name__ == "__main__":
    with one_line_errors("quantize"):
        main()
