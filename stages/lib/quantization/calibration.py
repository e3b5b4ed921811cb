"""What static quantization measures on images: the range of each activation, and the mean error of rounded weights."""

import contextlib
import copy
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, TensorsData, create_calibrator
from onnxruntime.quantization.calibrate import HistogramCalibrater, HistogramCollector

from stages.lib.stage import track

# From here to the linear layer everything is int8, without a way back to float between. Cast, normalization and the
# mean stay in float: they are cheap, and their inputs need the precision.
INT8_OPERATORS = ["Conv", "Relu", "MaxPool", "Concat", "Gemm"]

# ONNX Runtime's own 128 bins leave entropy no threshold to choose. Its time grows with the square of their number. Its
# symmetric histograms, the default of percentile, are not bounded by `BoundedHistograms`.
CALIBRATORS: dict[str, tuple[CalibrationMethod, dict[str, int]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"symmetric": False}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 512}),
}
MOST_GROWTH = 8  # times the bins that a histogram begins with
CALIBRATION_BATCH = 16  # all activations of a batch are in memory: half a GB for the full net


class BoundedHistograms(HistogramCollector):  # type: ignore[misc]  # untyped base
    """ONNX Runtime's histograms, but of bounded size.

    It keeps the width of the bins of a layer's first batch. Where that was nearly dead and a later one isn't, it asks
    for gigabytes. Here the histogram is then drawn again with wider bins.
    """

    def merge_histogram(
        self, old: tuple[Any, ...], values: np.ndarray, low: np.ndarray, high: np.ndarray, threshold: np.ndarray
    ) -> tuple[Any, ...]:
        """The histogram of a tensor with more values counted in."""
        counts, edges, old_low, old_high, old_threshold = old
        if old_threshold > 0 and len(counts) * threshold > MOST_GROWTH * self.num_bins * old_threshold:
            centres = (edges[:-1] + edges[1:]) / 2
            counts, edges = np.histogram(
                centres, self.num_bins, range=(-float(threshold), float(threshold)), weights=counts
            )
            old = (counts.astype(np.int64), edges, old_low, old_high, threshold)
        merged: tuple[Any, ...] = super().merge_histogram(old, values, low, high, threshold)
        return merged


class Batches(CalibrationDataReader):  # type: ignore[misc]  # untyped base
    """Calibration images one batch at a time."""

    def __init__(self, *batches: np.ndarray) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the name of the model's input, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def activation_ranges(
    path: Path, images: np.ndarray, *, counts: Sequence[int], method: str, operators: Sequence[str] = INT8_OPERATORS
) -> Iterator[tuple[int, TensorsData]]:
    """Measure the range of each activation on the first images, and again on more of them.

    Args:
        path: The fp32 model, with the shapes of its activations.
        images: uint8 (N, S, S, 3).
        counts: Numbers of images, rising, from 1 to N.
        method: A key of `CALIBRATORS`.
        operators: What will run in int8.

    Yields:
        A number of images, and the ranges on that many.
    """
    calibration_method, options = CALIBRATORS[method]
    with tempfile.TemporaryDirectory() as name:
        calibrator = create_calibrator(
            path,
            list(operators),
            augmented_model_path=str(Path(name) / "augmented.onnx"),
            calibrate_method=calibration_method,
            extra_options=options,
        )
        if isinstance(calibrator, HistogramCalibrater):
            names = ("method", "symmetric", "num_bins", "num_quantized_bins", "percentile", "scenario")
            calibrator.collector = BoundedHistograms(**{name: getattr(calibrator, name) for name in names})
        done = 0
        for count in counts:
            # A call for each batch: within a call all activations are kept (and CalibMaxIntermediateOutputs drops
            # batches before it has read their ranges, in ONNX Runtime 1.32).
            for start in track(range(done, count, CALIBRATION_BATCH), unit="batch"):
                with contextlib.redirect_stdout(io.StringIO()):  # calibrators print
                    calibrator.collect_data(Batches(images[start : min(start + CALIBRATION_BATCH, count)]))
            with contextlib.redirect_stdout(io.StringIO()):
                # A copy: the calibrator goes on with what it gives.
                ranges = copy.deepcopy(calibrator.compute_data())
            done = count
            yield count, ranges


def correct_biases(model: onnx.ModelProto, quantized: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """Make up in the biases of `model` for what its outputs lose on average when the weights are rounded.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, equation 17: the
    mean of (W - rounded W) x over the inputs x of a layer, for each output channel. Here x are the activations of the
    fp32 model on images, where they are derived from batch normalization there; so zero padding counts too.

    Args:
        model: The fp32 model; each Conv and Gemm has a bias of its own.
        quantized: The same, quantized by `quantize_static` in QDQ format, with weights int8 per output channel.
        images: uint8 (N, S, S, 3), N at least 1.

    Returns:
        A copy of `model` with other biases.
    """
    corrected, probe = copy.deepcopy(model), copy.deepcopy(model)
    biases = {tensor.name: tensor for tensor in corrected.graph.initializer}
    errors: dict[str, str] = {}  # from the name of a bias to the output of `probe` that it needs
    for node, error in _rounding_errors(model, quantized):
        layer, bias = node.name, node.input[2]
        assert bias not in errors, f"{bias} is the bias of two layers"
        difference = copy.deepcopy(node)
        difference.name = f"{layer}_error"
        difference.input[:] = [node.input[0], f"{layer}_rounding"]
        difference.output[:] = [f"{layer}_error"]
        probe.graph.initializer.append(onnx.numpy_helper.from_array(error, f"{layer}_rounding"))
        probe.graph.node.append(difference)
        errors[bias] = difference.output[0]
        if node.op_type == "Conv":
            errors[bias] = f"{layer}_mean_error"
            probe.graph.node.append(
                onnx.helper.make_node("GlobalAveragePool", [difference.output[0]], [errors[bias]], errors[bias])
            )

    if not errors:
        return corrected
    session = open_probe(probe, errors.values())
    sums: list[np.ndarray | float] = [0.0] * len(errors)
    for start in range(0, len(images), CALIBRATION_BATCH):
        outputs = session.run(list(errors.values()), {"images": images[start : start + CALIBRATION_BATCH]})
        sums = [
            total + output.sum(axis=0, dtype=np.float64).ravel()  # (output channels,)
            for total, output in zip(sums, outputs, strict=True)
        ]
    for name, total in zip(errors, sums, strict=True):
        values = onnx.numpy_helper.to_array(biases[name]) + total / len(images)
        biases[name].CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    return corrected


def open_probe(model: onnx.ModelProto, names: Iterable[str]) -> onnxruntime.InferenceSession:
    """A session of the model that can give these float tensors besides its outputs."""
    probe = copy.deepcopy(model)
    known = {value.name for value in (*probe.graph.output, *probe.graph.input)}
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in known
    )
    return onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])


def rows_are_outputs(node: onnx.NodeProto) -> bool:
    """Whether it is a Conv or Gemm whose weight has a row for each output channel."""
    transposed = any(attribute.name == "transB" and attribute.i == 1 for attribute in node.attribute)
    return node.op_type == "Conv" or (node.op_type == "Gemm" and transposed)


def _rounding_errors(model: onnx.ModelProto, quantized: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, np.ndarray]]:
    """Each Conv and Gemm of `model` that is quantized, and what its weights lose: W - rounded W, float32."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    rounded = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for node in model.graph.node:
        name = node.input[1] if node.op_type in ("Conv", "Gemm") else ""
        if f"{name}_quantized" in rounded:  # else it stays in float
            weight, levels, scale = (
                onnx.numpy_helper.to_array(tensor)
                for tensor in (weights[name], rounded[f"{name}_quantized"], rounded[f"{name}_scale"])
            )
            if rows_are_outputs(node) and scale.shape == weight.shape[:1]:
                yield node, weight - levels * scale.reshape(-1, *[1] * (weight.ndim - 1))
