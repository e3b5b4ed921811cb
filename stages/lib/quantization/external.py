"""Somebody else's classifier, an ONNX file, brought to the form of our own: it takes images as they are."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import quant_pre_process

from stages.lib.quantization.calibration import open_probe
from stages.lib.quantization.export import add_biases, rename_tensors, write_onnx

LEAST_OPSET = 13  # the first in which quantization has a scale for each channel
CONTROL_FLOW = {"If", "Loop", "Scan"}
# What runs in int8 besides the operators of our own network.
INT8_OPERATORS = ["Conv", "Relu", "Clip", "MaxPool", "GlobalAveragePool", "Concat", "Add", "Mul", "Gemm"]


def adopt_onnx(
    path: Path,
    target: Path,
    *,
    layout: Literal["NCHW", "NHWC"],
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int,
    classes: Sequence[str],
) -> dict[str, int]:
    """Write the model as `export_onnx` writes ours, with normalization inside and batch normalization folded.

    Args:
        path: Takes one batch of normalized float images, of any batch size, and gives logits (N, num_classes).
        layout: Of those images.
        mean: Of pixels in [0, 1], by channel, that normalization subtracts.
        std: That it then divides by.

    Returns:
        `num_parameters`, `num_nonzero_parameters` and `macs` for one image, of convolutions and linear layers.

    Raises:
        ValueError: If the file is no ONNX model, or one that can't be quantized.
    """
    model = _load(path)
    source = _check_input(model, path, layout=layout, image_size=image_size)
    output = _check_output(model, path, num_classes=len(classes))
    rename_tensors(model.graph, {source: "normalized", output: "logits"})
    del model.graph.input[:], model.graph.output[:]
    shape: list[str | int | None] = ["batch", image_size, image_size, 3]
    model.graph.input.append(onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, shape))
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", len(classes)])
    model.graph.output.append(logits)
    _prepend_normalization(model, layout=layout, mean=mean, std=std)
    with tempfile.TemporaryDirectory() as folder:
        raw, folded = Path(folder) / "raw.onnx", Path(folder) / "folded.onnx"
        onnx.save(model, raw)
        try:
            quant_pre_process(raw, folded, skip_symbolic_shape=True)
        except Exception as error:  # its errors have no common class
            raise ValueError(f"{path} must be a model that ONNX Runtime can run ({error}); export it again") from None
        model = onnx.load(folded)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    add_biases(model)
    onnx.helper.set_model_props(model, {"classes": json.dumps(list(classes))})
    try:
        open_probe(model, []).run(["logits"], {"images": np.zeros((2, image_size, image_size, 3), np.uint8)})
    except Exception:  # of ONNX Runtime, which tells more by itself
        raise ValueError(f"{path} must take several images, failed on 2; export it with a dynamic batch") from None
    write_onnx(model, target)
    return _costs(model, path, image_size=image_size)


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ValueError(f"external must name files in external/onnx/, found no {path}; copy it there")
    try:
        model = onnx.load(path, load_external_data=False)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise ValueError("it must hold its weights itself, got some in other files; save it as one file")
        onnx.checker.check_model(model)
    except Exception as error:
        raise ValueError(f"{path} must be a valid ONNX model, got another ({error}); export it again") from None
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("", 0) < LEAST_OPSET:
        raise ValueError(f"{path} must have opset {LEAST_OPSET} or newer, got {opsets.get('', 0)}; export it with 18")
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    refused = foreign + sorted({node.op_type for node in model.graph.node} & CONTROL_FLOW)
    if refused:
        raise ValueError(
            f"{path} must have standard operators without control flow, got {', '.join(refused)}; export it again"
        )
    return model


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    """A tensor's shape, None where it may be any."""
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]


def _check_input(model: onnx.ModelProto, path: Path, *, layout: str, image_size: int) -> str:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    expected = [None, 3, image_size, image_size] if layout == "NCHW" else [None, image_size, image_size, 3]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ValueError(f"{path} must have one input, of float images, got {len(inputs)} inputs; export it again")
    dims = _dims(inputs[0])
    fits = len(dims) == 4 and all(dim in (None, wanted) for dim, wanted in zip(dims, expected, strict=True))
    if not fits:
        shown = [dim or "any" for dim in dims]
        raise ValueError(
            f"{path} must take any number of images, ['any', {', '.join(map(str, expected[1:]))}] in layout {layout}, "
            f"got {shown}; export it with a dynamic batch, or change data.image_size"
        )
    return str(inputs[0].name)


def _check_output(model: onnx.ModelProto, path: Path, *, num_classes: int) -> str:
    dims = [_dims(value) for value in model.graph.output]
    if len(dims) != 1 or len(dims[0]) != 2 or dims[0][1] not in (None, num_classes):
        raise ValueError(f"{path} must have one output, logits of {num_classes} classes, got {dims}; export another")
    return str(model.graph.output[0].name)


def _prepend_normalization(model: onnx.ModelProto, *, layout: str, mean: Sequence[float], std: Sequence[float]) -> None:
    shift, scale = 255 * np.array(mean, np.float32), 255 * np.array(std, np.float32)
    constants = {"normalization_shift": shift, "normalization_scale": scale}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    last = "normalized" if layout == "NHWC" else "normalized_nhwc"
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["images_float"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Sub", ["images_float", "normalization_shift"], ["images_shifted"]),
        onnx.helper.make_node("Div", ["images_shifted", "normalization_scale"], [last]),
    ]
    if layout == "NCHW":
        nodes.append(onnx.helper.make_node("Transpose", [last], ["normalized"], perm=[0, 3, 1, 2]))
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def _costs(model: onnx.ModelProto, path: Path, *, image_size: int) -> dict[str, int]:
    inferred = onnx.ModelProto()
    inferred.CopyFrom(model)
    inferred.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del inferred.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(inferred)
    shapes = {value.name: _dims(value) for value in (*inferred.graph.value_info, *inferred.graph.output)}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm") and node.input[1] in weights]
    if not layers:
        raise ValueError(f"{path} must have convolutions or linear layers, got none; export another")
    macs = 0
    for node in layers:
        positions = shapes[node.output[0]][2:] if node.op_type == "Conv" else []
        if None in positions:
            raise ValueError(f"{path} must have a fixed shape at {image_size} px, got {positions} at {node.name}")
        macs += int(np.prod([*weights[node.input[1]].shape, *positions], dtype=np.int64))
    learned = [weights[name] for node in layers for name in node.input[1:] if name in weights]
    return {
        "num_parameters": sum(int(values.size) for values in learned),
        "num_nonzero_parameters": sum(int(np.count_nonzero(values)) for values in learned),
        "macs": macs,
    }
