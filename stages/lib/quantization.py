"""Deployable models: export to ONNX, and static int8 quantization.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, as ONNX Runtime implements it.
"""

import contextlib
import copy
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quant_pre_process,
    quantize_static,
    save_tensors_data,
)
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stages.lib.files import replacing
from stages.lib.googlenet import ConvBN, GoogLeNet

OPSET = 18  # the oldest that the exporter writes without converting, read by ONNX Runtime since 1.14

# From here to the linear layer everything is int8, without a way back to float between. Cast, normalization and the
# mean stay in float: they are cheap, and their inputs need the precision.
INT8_OPERATORS = ["Conv", "Relu", "MaxPool", "Concat", "Gemm"]

# ONNX Runtime's own 128 bins leave entropy no threshold to choose. Its time grows with the square of their number.
CALIBRATORS: dict[str, tuple[CalibrationMethod, dict[str, int]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 512}),
}
CALIBRATION_BATCH = 16  # all activations of a batch are in memory: half a GB for the full net


class FromImages(nn.Module):
    """A model that takes images as they come from a file."""

    def __init__(self, model: GoogLeNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """From uint8 (N, 32, 32, 3) to logits (N, num_classes)."""
        logits: Tensor = self.model(images.permute(0, 3, 1, 2).float() / 255)
        return logits


class Batches(CalibrationDataReader):  # type: ignore[misc]  # untyped base
    """Calibration images one batch at a time."""

    def __init__(self, *batches: np.ndarray) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the name of the model's input, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def export_onnx(model: GoogLeNet, path: Path, *, classes: Sequence[str]) -> None:
    """Write `model` as one fp32 ONNX file, batch normalization folded into the convolutions.

    Its input `images` is uint8 (N, 32, 32, 3), its output `logits` float32 (N, num_classes). The metadata entry
    `classes` holds the class names as JSON. The same model gives the same bytes.

    Raises:
        ValueError: If there is not one name for each class.
    """
    num_classes = model.architecture.num_classes
    if len(classes) != num_classes:
        raise ValueError(f"classes must be {num_classes} names, one for each output of the model, got {len(classes)}")
    example = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)  # one image would make the batch size a constant
    program = torch.onnx.export(
        FromImages(_folded(model)).eval(),
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    _write(program.model_proto, path, classes=json.dumps(list(classes)))


def quantize_onnx(
    fp32_path: Path,
    int8_path: Path,
    *,
    calibration: np.ndarray,
    method: Literal["minmax", "percentile", "entropy"],
    reduce_range: bool,
) -> None:
    """Quantize what `export_onnx` wrote: int8 weights per output channel, uint8 activations per tensor.

    Unsigned activations and signed weights, because ONNX Runtime then runs the whole net in int8 on x86. With signed
    activations it falls back to float for every MaxPool and many convolutions, and takes 1.7 times as long.

    Args:
        calibration: Images that set the range of each activation, uint8 (N, 32, 32, 3), N at least 1.
        method: The range is all values, all but rare ones, or the one that loses the least information.
        reduce_range: Use 7 bits for weights. CPUs without VNNI add pairs of products in 16 bits, which overflow else.
    """
    calibration_method, options = CALIBRATORS[method]
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):  # calibrators print
        prepared, ranges, int8 = (Path(name) / file for file in ("prepared.onnx", "ranges.json", "int8.onnx"))
        quant_pre_process(fp32_path, prepared, skip_optimization=True, skip_symbolic_shape=True)  # only shapes lack
        calibrator = create_calibrator(
            prepared,
            INT8_OPERATORS,
            augmented_model_path=str(Path(name) / "augmented.onnx"),
            calibrate_method=calibration_method,
            extra_options=options,
        )
        # A call for each batch: within a call all activations are kept (and CalibMaxIntermediateOutputs drops batches
        # before it has read their ranges, in ONNX Runtime 1.32).
        for start in range(0, len(calibration), CALIBRATION_BATCH):
            calibrator.collect_data(Batches(calibration[start : start + CALIBRATION_BATCH]))
        save_tensors_data(calibrator.compute_data(), ranges)
        quantize_static(
            prepared,
            int8,
            None,
            calibration_cache_path=ranges,
            calibrate_method=calibration_method,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=INT8_OPERATORS,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Logits of 8 bits would tie.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        quantized = onnx.load(int8)
    _write(quantized, int8_path, classes=_metadata(quantized)["classes"])


def _folded(model: GoogLeNet) -> GoogLeNet:
    """A copy in evaluation mode whose convolutions do the work of the batch normalization after them."""
    folded = copy.deepcopy(model).cpu().eval()
    for module in folded.modules():
        if isinstance(module, ConvBN):
            convolution, normalization = module[0], module[1]
            assert isinstance(convolution, nn.Conv2d) and isinstance(normalization, nn.BatchNorm2d)
            module[0] = fuse_conv_bn_eval(convolution, normalization)
            module[1] = nn.Identity()
    return folded


def _metadata(proto: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def _write(proto: onnx.ModelProto, path: Path, *, classes: str) -> None:
    """Check and write a model without what the tools note in it: source paths of this machine, and more."""
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.helper.set_model_props(proto, {"classes": classes})
    onnx.checker.check_model(proto)
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
