"""Deployable fp32 models: a network written as an ONNX file that takes images as they are."""

import copy
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stages.lib.artifacts import replacing
from stages.lib.network.googlenet import ConvBN, GoogLeNet
from stages.lib.quantization.calibration import rows_are_outputs

OPSET = 18  # the oldest that the exporter writes without converting, read by ONNX Runtime since 1.14


class FromImages(nn.Module):
    """A model that takes images as they come from a file."""

    def __init__(self, model: GoogLeNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """From uint8 (N, S, S, 3) to logits (N, num_classes)."""
        logits: Tensor = self.model(images.permute(0, 3, 1, 2).float() / 255)
        return logits


def export_onnx(model: GoogLeNet, path: Path, *, classes: Sequence[str], image_size: int) -> None:
    """Write `model` as one fp32 ONNX file, batch normalization folded into the convolutions.

    Its input `images` is uint8 (N, image_size, image_size, 3), its output `logits` float32 (N, num_classes). The
    metadata entry `classes` holds the class names as JSON. Nodes with weights have the names of the model's layers. The
    same model gives the same bytes.

    Raises:
        ValueError: If there is not one name for each class.
    """
    num_classes = model.architecture.num_classes
    if len(classes) != num_classes:
        raise ValueError(f"classes must be {num_classes} names, one for each output of the model, got {len(classes)}")
    # One image would make the batch size a constant.
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with _signals_wait():
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
    proto = program.model_proto
    add_biases(proto)
    _name_layers(proto.graph)
    onnx.helper.set_model_props(proto, {"classes": json.dumps(list(classes))})
    write_onnx(proto, path)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back: what they raise within C++ that has called Python would abort the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def layer_name(node: onnx.NodeProto) -> str:
    """The name of a Conv or Gemm, which its weight tells; empty for any other node."""
    if node.op_type not in ("Conv", "Gemm"):
        return ""
    return str(node.input[1]).removeprefix("model.").removesuffix(".weight").removesuffix(".0")


def layer_ends(graph: onnx.GraphProto) -> dict[str, tuple[onnx.NodeProto, str]]:
    """Each Conv and Gemm and the tensor that it ends in, after a ReLU if there is one, by `layer_name`.

    The exporter stores equal weights once; of layers that share them, the first counts.
    """
    relus = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Relu"}
    ends: dict[str, tuple[onnx.NodeProto, str]] = {}
    for node in graph.node:
        if name := layer_name(node):
            ends.setdefault(name, (node, relus.get(node.output[0], node.output[0])))
    return ends


def rename_tensors(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors other names wherever nodes read or write them; the rest keep theirs."""
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(tensor, tensor) for tensor in tensors]


def _name_layers(graph: onnx.GraphProto) -> None:
    """Name the node and the output of each layer after it: the profiler tells the one or the other."""
    names = {}
    for name, (node, end) in layer_ends(graph).items():
        node.name = name
        names[end] = name
    for output in graph.output:
        names.pop(output.name, None)
    rename_tensors(graph, names)
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)


def write_onnx(proto: onnx.ModelProto, path: Path) -> None:
    """Check and write a model without what the tools note in it: source paths of this machine, and more."""
    classes = {entry.key: entry.value for entry in proto.metadata_props}["classes"]
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.helper.set_model_props(proto, {"classes": classes})
    onnx.checker.check_model(proto)
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())


def _folded(model: GoogLeNet) -> GoogLeNet:
    """A copy in evaluation mode whose convolutions do the work of the batch normalization after them."""
    folded = copy.deepcopy(model).cpu().eval()
    for module in folded.modules():
        if isinstance(module, ConvBN):
            convolution, normalization = module.last_convolution, module[1]
            assert isinstance(normalization, nn.BatchNorm2d)
            fused = fuse_conv_bn_eval(convolution, normalization)
            convolution.weight, convolution.bias = fused.weight, fused.bias
            module[1] = nn.Identity()
    for module in folded.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # A masked negative weight is -0.0, which a sparse file would have to store.
            module.weight = nn.Parameter(module.weight.detach() + 0.0)
            if module.bias is None:  # a linear layer without one would become a MatMul, left in float
                module.bias = nn.Parameter(torch.zeros(len(module.weight)))
    return folded


def add_biases(proto: onnx.ModelProto) -> None:
    """Give each layer a bias of its own, for bias correction: exporters leave out zeros and store equal ones once."""
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    owned = set()
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in tensors:
            continue
        if len(node.input) == 2:
            num_out = tensors[node.input[1]].shape[0 if rows_are_outputs(node) else 1]
            bias = np.zeros(num_out, dtype=np.float32)
        elif node.input[2] in owned:
            bias = tensors[node.input[2]]
        else:
            owned.update({node.input[2]} & tensors.keys())
            continue
        name = f"{node.output[0]}_bias"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(bias, name))
        node.input[2:] = [name]
