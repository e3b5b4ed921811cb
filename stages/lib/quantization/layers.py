"""What int8 costs in each layer, so that the worst ones can be found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from stages.lib.quantization.calibration import CALIBRATION_BATCH, open_probe
from stages.lib.quantization.export import layer_ends

DEQUANTIZED = "_DequantizeLinear_Output"  # what ONNX Runtime's quantizer appends to the name of a tensor


def layer_errors(fp32: Path, quantized: onnx.ModelProto, images: np.ndarray) -> list[dict[str, str | float]]:
    """How far the output of each Conv and Gemm is from that of the fp32 model, both run from the image on.

    Args:
        quantized: The fp32 model, quantized by `quantize_static` in QDQ format.
        images: uint8 (N, S, S, 3), N at least 1; the first ones are used.

    Returns:
        `name` and `error_pct` of each layer, in the order of the graph: the norm of the difference as a share of that
        of the output, after the ReLU that follows.
    """
    model = onnx.load(fp32)
    tensors = {name: end for name, (_, end) in layer_ends(model.graph).items()}
    there = {name for node in quantized.graph.node for name in node.output}
    twins = [f"{tensor}{DEQUANTIZED}" if f"{tensor}{DEQUANTIZED}" in there else tensor for tensor in tensors.values()]
    feed = {"images": images[:CALIBRATION_BATCH]}
    whole, coarse = (
        open_probe(each, names).run(names, feed)
        for each, names in ((model, list(tensors.values())), (quantized, twins))
    )
    return [
        {"name": layer, "error_pct": 100 * float(np.linalg.norm(y - x)) / max(float(np.linalg.norm(x)), 1e-12)}
        for layer, x, y in zip(tensors, whole, coarse, strict=True)
    ]


def worst_first(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of layers, the one first that adds most to the error of the layer before it in the graph."""
    before = [0.0, *(layer["error_pct"] for layer in layers)]
    order = sorted(range(len(layers)), key=lambda i: before[i] - layers[i]["error_pct"])
    return [layers[i]["name"] for i in order]
