"""Static int8 quantization of ONNX files.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, as ONNX Runtime implements it.
"""

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from stages.lib.quantization.calibration import (
    CALIBRATION_BATCH,
    INT8_OPERATORS,
    activation_ranges,
    correct_biases,
)
from stages.lib.quantization.export import write_onnx
from stages.lib.quantization.layers import layer_errors, layer_name, worst_first
from stages.lib.runtime.session import classify, error_pct, open_session

Method = Literal["minmax", "percentile", "entropy"]

VALIDATION_BATCH = 100


def choose_calibration(
    fp32_path: Path,
    int8_path: Path,
    *,
    calibration: np.ndarray,
    validation: Images,
    methods: Sequence[Method],
    counts: Sequence[int],
    bias_correction: bool,
    reduce_range: bool,
    weight_levels: int = 0,
    operators: Sequence[str] = INT8_OPERATORS,
    max_loss_pct: float | None = None,
) -> dict[str, Any]:
    """Quantize what `export_onnx` wrote in several ways, and write what changes the logits least on validation images.

    The mean squared error of the logits tells more than the error rate, whose best of several is best by luck. Of
    equally good ones it is that with the fewest calibration images, then that with the first method. Weights are
    int8 per output channel, activations uint8 per tensor: ONNX Runtime then runs the whole net in int8 on x86. With
    signed activations it falls back to float for every MaxPool and many convolutions, and takes 1.7 times as long.

    Args:
        calibration: Images in random order, uint8 (N, S, S, 3), N at least 1; of these the first ones are used.
        methods: Each is tried with each of `counts`. The range of an activation is all its values, all but rare ones,
            or the one that loses the least information.
        counts: Numbers of calibration images; N stands for those above it.
        bias_correction: Make up in the biases for the mean error of rounded weights on these images.
        reduce_range: Use 7 bits for weights. CPUs without VNNI add pairs of products in 16 bits, which overflow else.
        weight_levels: Of a network whose weights are already whole multiples of a scale, at most this many, which they
            stay; 0 for any other.
        operators: What runs in int8.
        max_loss_pct: Layers stay in float, those first that add most error, until the validation error is at most this
            many points above that in fp32; None leaves none in float.

    Returns:
        `calibration_method`, `calibration_images`, `bias_correction`, `val_error_pct` and `logits_mse` of the written
        model, `fp32_val_error_pct`, `candidates`: `method`, `images`, `val_error_pct` and `logits_mse` of each, and
        `layers`, as of `layer_errors`, and `float_layers`, the names of those left in float.
    """
    counts = sorted({min(count, len(calibration)) for count in counts})
    fp32_logits = _logits(fp32_path, validation)
    fp32_error = error_pct(fp32_logits, validation.labels, top=1)
    print(f"fp32: validation error {fp32_error:.2f} %", flush=True)
    settings: dict[str, Any] = {"reduce_range": reduce_range, "weight_levels": weight_levels, "operators": operators}
    candidates: list[_Candidate] = []
    with _prepared(fp32_path) as prepared:

        def judged(calibrated: _Calibrated, *, float_layers: Sequence[str] = ()) -> _Candidate:
            images = calibration[: calibrated.images] if bias_correction else None
            model = _quantized(prepared, calibrated.ranges, bias_images=images, float_layers=float_layers, **settings)
            path = prepared.with_name("candidate.onnx")
            write_onnx(model, path)
            logits = _logits(path, validation)
            error, mse = error_pct(logits, validation.labels, top=1), float(np.square(logits - fp32_logits).mean())
            how = f"{calibrated.method} of {calibrated.images} images, {len(float_layers)} layers in float"
            print(f"int8, {how}: validation error {error:.2f} %, MSE {mse:.4f}", flush=True)
            return _Candidate(calibrated, model, error, mse)

        for method in methods:
            for count, ranges in activation_ranges(
                prepared, calibration, counts=counts, method=method, operators=operators
            ):
                candidates.append(judged(_Calibrated(method, count, ranges)))
        best = min(candidates, key=lambda each: (each.logits_mse, each.calibrated.images))
        layers = layer_errors(prepared, best.model, validation.pixels[:CALIBRATION_BATCH])
        float_layers: list[str] = []
        for name in worst_first(layers):
            if max_loss_pct is None or best.val_error_pct - fp32_error <= max_loss_pct:
                break
            float_layers.append(name)
            best = judged(best.calibrated, float_layers=float_layers)
    write_onnx(_shortened(best.model), int8_path)
    return {
        "calibration_method": best.calibrated.method,
        "calibration_images": best.calibrated.images,
        "bias_correction": bias_correction,
        "val_error_pct": best.val_error_pct,
        "logits_mse": best.logits_mse,
        "fp32_val_error_pct": fp32_error,
        "candidates": [each.facts() for each in candidates],
        "layers": layers,
        "float_layers": float_layers,
    }


@dataclass(frozen=True)
class _Calibrated:
    """Ranges of the activations, and where they come from."""

    method: Method
    images: int
    ranges: TensorsData


@dataclass(frozen=True)
class _Candidate:
    """A quantized model, and what it does on the validation images."""

    calibrated: _Calibrated
    model: onnx.ModelProto
    val_error_pct: float
    logits_mse: float

    def facts(self) -> dict[str, str | int | float]:
        return {
            "method": self.calibrated.method,
            "images": self.calibrated.images,
            "val_error_pct": self.val_error_pct,
            "logits_mse": self.logits_mse,
        }


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
    weight_levels: int,
    operators: Sequence[str],
    float_layers: Sequence[str] = (),
) -> onnx.ModelProto:
    """Quantize with these ranges of the activations, and with biases corrected on `bias_images` if there are any."""
    source, cache, int8 = (prepared.with_name(file) for file in ("source.onnx", "ranges.json", "int8.onnx"))
    save_tensors_data(ranges, cache)

    def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
        onnx.save(model, source)
        quantize_static(
            source,
            int8,
            None,
            calibration_cache_path=cache,
            calibrate_method=ranges.calibration_method,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=[node.name for node in model.graph.node if layer_name(node) in float_layers],
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm"],  # logits of 8 bits would tie
                "TensorQuantOverrides": _weight_scales(model, weight_levels) if weight_levels else {},
            },
        )
        return onnx.load(int8)

    model = onnx.load(prepared)
    first = quantized(model)
    return first if bias_images is None else quantized(correct_biases(model, first, bias_images))


def _shortened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same computation without what only a reader needs: long names and noted shapes, a tenth of a small file."""
    result = copy.deepcopy(model)
    graph = result.graph
    del graph.value_info[:]
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}  # empty: left out
    for node in graph.node:
        node.name = ""
        for tensors in (node.input, node.output):
            tensors[:] = [names.setdefault(name, f"{len(names):x}") for name in tensors]
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"{len(names):x}")
    return result


def _weight_scales(model: onnx.ModelProto, levels: int) -> dict[str, list[dict[str, Any]]]:
    """For each output channel of each weight the scale of which its values are whole multiples, as overrides."""
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    overrides = {}
    for name in (node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")):
        weight = weights[name]
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scales = np.where(largest > 0, largest / levels, 1).astype(np.float32)
        overrides[name] = [
            {"axis": 0, "quant_type": QuantType.QInt8, "scale": scale, "zero_point": np.int8(0)} for scale in scales
        ]
    return overrides


def _logits(path: Path, images: Images) -> np.ndarray:
    return classify(open_session(path, threads=0), images.pixels[:], batch_size=VALIDATION_BATCH)
