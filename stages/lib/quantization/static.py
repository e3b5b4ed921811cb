"""Static int8 quantization of ONNX files.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, as ONNX Runtime implements it.
"""

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    QuantFormat,
    QuantType,
    TensorsData,
    quant_pre_process,
    quantize_static,
    save_tensors_data,
)

from stages.lib.images import Images
from stages.lib.quantization.calibration import CALIBRATION_BATCH, INT8_OPERATORS, activation_ranges, correct_biases
from stages.lib.quantization.export import layer_name, write_onnx
from stages.lib.quantization.layers import layer_errors, worst_first
from stages.lib.quantization.rounding import gptq, weight_scales
from stages.lib.runtime.session import classify, error_pct, open_session
from stages.lib.schema import Quantize

VALIDATION_BATCH = 100
ROUNDING_IMAGES = 128
CANDIDATE_FACTS = ("method", "images", "val_error_pct", "logits_mse")
LEVELS, REDUCED_LEVELS = 127, 64  # the largest weight, of 8 bits and of 7, as ONNX Runtime has it
WEIGHTS = {"axis": 0, "quant_type": QuantType.QInt8, "zero_point": np.int8(0)}  # and a step for each channel


def choose_calibration(
    fp32_path: Path,
    int8_path: Path,
    *,
    calibration: np.ndarray,
    validation: Images,
    recipe: Quantize,
    weight_levels: int = 0,
    operators: Sequence[str] = INT8_OPERATORS,
) -> dict[str, Any]:
    """Quantize what `export_onnx` wrote in several ways, and write what changes the logits least on validation images.

    The mean squared error of the logits tells more than the error rate, whose best of several is best by luck. Of
    equally good ones it is that with the fewest calibration images, then that with the first method. Weights are
    int8 per output channel, activations uint8 per tensor: ONNX Runtime then runs the whole net in int8 on x86. With
    signed activations it falls back to float for every MaxPool and many convolutions, and takes 1.7 times as long.

    Args:
        calibration: Images in random order, uint8 (N, S, S, 3), N at least 1; of these the first ones are used.
        recipe: Each calibration method is tried with each number of images, where N stands for more. The range of an
            activation is all its values (minmax), all but rare ones (percentile), or the one that loses the least
            information (entropy). With `reduce_range`, weights use 7 bits: CPUs without VNNI add pairs of products in
            16 bits, which would otherwise overflow. With `max_loss_pct`, layers stay in float, those that add the most
            error first, until the validation error is at most that many points above that in fp32.
        weight_levels: Of a network whose weights are already whole multiples of a scale, at most this many, which they
            stay; 0 for any other.
        operators: What runs in int8.

    Returns:
        `calibration_method`, `calibration_images`, `bias_correction`, `val_error_pct` and `logits_mse` of the written
        model, `fp32_val_error_pct`, `candidates`: `method`, `images`, `val_error_pct` and `logits_mse` of each, and
        `layers`, as of `layer_errors`, and `float_layers`, the names of those left in float.
    """
    counts = sorted({min(count, len(calibration)) for count in recipe.calibration_images})
    fp32_logits = _logits(fp32_path, validation)
    fp32_error = error_pct(fp32_logits, validation.labels, top=1)
    print(f"fp32: validation error {fp32_error:.2f} %", flush=True)
    levels = weight_levels or (REDUCED_LEVELS if recipe.reduce_range else LEVELS)
    candidates: list[_Candidate] = []
    with _prepared(fp32_path) as prepared:
        scales = weight_scales(onnx.load(prepared), levels)
        weights = {}
        if recipe.weight_rounding == "gptq" and not weight_levels:  # those are on their levels
            weights = gptq(
                prepared, calibration[:ROUNDING_IMAGES], scales, levels=levels, centred=recipe.bias_correction
            )

        def judged(method: str, images: int, ranges: TensorsData, float_layers: Sequence[str] = ()) -> _Candidate:
            model = _quantized(
                prepared,
                ranges,
                bias_images=calibration[:images] if recipe.bias_correction else None,
                reduce_range=recipe.reduce_range,
                operators=operators,
                scales=scales,
                weights=weights,
                float_layers=float_layers,
            )
            path = prepared.with_name("candidate.onnx")
            write_onnx(model, path)
            logits = _logits(path, validation)
            error, mse = error_pct(logits, validation.labels, top=1), float(np.square(logits - fp32_logits).mean())
            how = f"{method} of {images} images, {len(float_layers)} layers in float"
            print(f"int8, {how}: validation error {error:.2f} %, MSE {mse:.4f}", flush=True)
            return _Candidate(method, images, ranges, model, error, mse)

        for method in recipe.calibration_methods:
            for count, ranges in activation_ranges(
                prepared, calibration, counts=counts, method=method, operators=operators
            ):
                candidates.append(judged(method, count, ranges))
        best = min(candidates, key=lambda each: (each.logits_mse, each.images))
        layers = layer_errors(prepared, best.model, validation.pixels[:CALIBRATION_BATCH])
        float_layers: list[str] = []
        for name in worst_first(layers):
            if recipe.max_loss_pct is None or best.val_error_pct - fp32_error <= recipe.max_loss_pct:
                break
            float_layers.append(name)
            best = judged(best.method, best.images, best.ranges, float_layers)
    write_onnx(_shortened(best.model), int8_path)
    return {
        "calibration_method": best.method,
        "calibration_images": best.images,
        "bias_correction": recipe.bias_correction,
        "val_error_pct": best.val_error_pct,
        "logits_mse": best.logits_mse,
        "fp32_val_error_pct": fp32_error,
        "candidates": [{key: getattr(each, key) for key in CANDIDATE_FACTS} for each in candidates],
        "layers": layers,
        "float_layers": float_layers,
    }


@dataclass(frozen=True)
class _Candidate:
    """A quantized model, where its ranges of the activations come from, and what it does on the validation images."""

    method: str
    images: int
    ranges: TensorsData
    model: onnx.ModelProto
    val_error_pct: float
    logits_mse: float


@contextlib.contextmanager
def _prepared(fp32_path: Path) -> Iterator[Path]:
    """A copy of the model in a temporary folder, with the shapes that quantization needs."""
    with tempfile.TemporaryDirectory() as name:
        prepared = Path(name) / "prepared.onnx"
        quant_pre_process(fp32_path, prepared, skip_optimization=True, skip_symbolic_shape=True)  # only shapes lack
        yield prepared


def _quantized(
    prepared: Path,
    ranges: TensorsData,
    *,
    bias_images: np.ndarray | None,
    reduce_range: bool,
    operators: Sequence[str],
    scales: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    float_layers: Sequence[str],
) -> onnx.ModelProto:
    """Quantize with these ranges of the activations and steps of the weights.

    Args:
        bias_images: On which biases are corrected; None leaves them.
        weights: Weights that are rounded already, by name.
    """
    source, cache, int8 = (prepared.with_name(file) for file in ("source.onnx", "ranges.json", "int8.onnx"))
    save_tensors_data(ranges, cache)

    def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
        excluded = [node for node in model.graph.node if layer_name(node) in float_layers]
        in_float = {node.input[1] for node in excluded}
        model = copy.deepcopy(model)
        for tensor in model.graph.initializer:
            if tensor.name in weights and tensor.name not in in_float:
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
        onnx.save(model, source)
        quantize_static(
            source,
            int8,
            None,
            calibration_cache_path=cache,
            calibrate_method=ranges.calibration_method,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=[node.name for node in excluded],
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm"],  # logits of 8 bits would tie
                "TensorQuantOverrides": {
                    name: [WEIGHTS | {"scale": scale} for scale in steps]
                    for name, steps in scales.items()
                    if name not in in_float
                },
            },
        )
        return onnx.load(int8)

    model = onnx.load(prepared)
    first = quantized(model)
    return first if bias_images is None else quantized(correct_biases(model, first, bias_images))


def _shortened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same computation without noted shapes and long names, a tenth of a small file.

    Layers keep their names, for the profiler.
    """
    result = copy.deepcopy(model)
    graph = result.graph
    del graph.value_info[:]
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}  # empty: left out
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            node.name = ""
        for tensors in (node.input, node.output):
            tensors[:] = [names.setdefault(name, f"{len(names):x}") for name in tensors]
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"{len(names):x}")
    return result


def _logits(path: Path, images: Images) -> np.ndarray:
    return classify(open_session(path, threads=0), images.pixels[:], batch_size=VALIDATION_BATCH)
