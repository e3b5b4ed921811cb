"""Weights rounded one after the other, each making up for the error of those before it.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional

from stages.lib.quantization.calibration import CALIBRATION_BATCH, open_probe, rows_are_outputs
from stages.lib.stage import track

DAMPING = 0.01  # of the mean variance of what a layer reads: keeps directions absent from the images from running wild
BLOCK = 128  # columns that are rounded before the rest is adapted, all at once
MOST_INPUTS = 5000  # of an output: a covariance then takes 200 MB


def weight_scales(model: onnx.ModelProto, levels: int) -> dict[str, np.ndarray]:
    """The step of each output channel, float32 (out,), by the name of the weight: its largest value over `levels`.

    Of the weights of every Conv and Gemm whose rows are output channels.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {}
    for node in model.graph.node:
        if rows_are_outputs(node) and node.input[1] in weights:
            weight = onnx.numpy_helper.to_array(weights[node.input[1]])
            largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
            scales[node.input[1]] = np.where(largest > 0, largest / levels, 1).astype(np.float32)
    return scales


def gptq(
    path: Path, images: np.ndarray, scales: Mapping[str, np.ndarray], *, levels: int, centred: bool
) -> dict[str, np.ndarray]:
    """Whole multiples of the steps, close to the weights of an fp32 model, with which its layers give nearly the same.

    The squared error of a layer's output is a quadratic form of the error of its weights, by the second moment of what
    the layer reads on the images. Weights are rounded in the order of their variance;
    the error of each is spread over those that come later. Weights that are zero stay zero. Where this is no better
    than rounding to the nearest, as it can be in sparse rows, that is taken.

    Args:
        path: The model. Grouped and very large layers are rounded to the nearest.
        images: uint8 (N, S, S, 3), N at least 1.
        scales: The step of each output channel, by the name of the weight.
        levels: The largest multiple.
        centred: Whether the mean error of an output doesn't count, since biases will make up for it.

    Returns:
        The rounded weights by name, float32, of the same shapes.
    """
    model = onnx.load(path)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if rows_are_outputs(node) and node.input[1] in scales]
    moments = _second_moments(model, nodes, images, centred=centred)
    rounded = {}
    for node in track(nodes, unit="layer"):
        name = node.input[1]
        weight = torch.from_numpy(weights[name]).flatten(1).double()  # (out, in)
        step = torch.from_numpy(scales[name]).double()[:, None]
        nearest = (weight / step).round().clamp(-levels, levels) * step
        best = nearest
        if (moment := moments.get(_key(node))) is not None:
            in_turn = _round_in_turn(weight, moment, step, levels)
            is_better = _error(in_turn - weight, moment) < _error(nearest - weight, moment)
            best = torch.where(is_better[:, None], in_turn, nearest)
        rounded[name] = best.float().view(weights[name].shape).numpy()
    return rounded


def _error(difference: Tensor, moment: Tensor) -> Tensor:
    """Mean squared error of each output, (out,)."""
    return (difference @ moment * difference).sum(dim=1)


def _round_in_turn(weight: Tensor, moment: Tensor, step: Tensor, levels: int) -> Tensor:
    """Round column after column of weights (out, in), each time adapting the columns that are left; maybe to NaN."""
    damped = moment.clone()
    damped.diagonal().add_(DAMPING * moment.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny))
    order = moment.diagonal().argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(damped[order][:, order]).L)
    factor = torch.linalg.cholesky_ex(inverse, upper=True).L
    left, result = weight[:, order].clone(), torch.zeros_like(weight)
    is_zero = left == 0
    for start in range(0, len(order), BLOCK):
        block = range(start, min(start + BLOCK, len(order)))
        errors = torch.zeros(len(weight), len(block), dtype=weight.dtype)
        for j in block:
            value = (left[:, j : j + 1] / step).round().clamp(-levels, levels) * step
            value[is_zero[:, j]] = 0
            result[:, order[j]] = value[:, 0]
            error = (left[:, j : j + 1] - value) / factor[j, j]
            left[:, j : block.stop] -= error * factor[j, j : block.stop]
            errors[:, j - start] = error[:, 0]
        left[:, block.stop :] -= errors @ factor[start : block.stop, block.stop :]
    return result


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _is_dense(node: onnx.NodeProto, shape: Sequence[int]) -> bool:
    """Whether each output reads all inputs, not too many of them, in a way that `_columns` knows."""
    said = _attributes(node)
    is_known = said.get("group", 1) == 1 and said.get("auto_pad", b"NOTSET") == b"NOTSET" and len(shape) in (2, 4)
    has_kernel = node.op_type == "Gemm" or "kernel_shape" in said  # ONNX may leave it to the weight
    return is_known and has_kernel and math.prod(shape[1:]) <= MOST_INPUTS


def _key(node: onnx.NodeProto) -> tuple[str, ...]:
    """What the columns that a layer reads depend on."""
    return (node.op_type, node.input[0], *(str(attribute) for attribute in node.attribute))


def _second_moments(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], images: np.ndarray, *, centred: bool
) -> dict[tuple[str, ...], Tensor]:
    """Of what each layer reads at the positions of its output, float64 (in, in), by `_key`."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    layers = {_key(node): node for node in nodes if _is_dense(node, shapes[node.input[1]])}
    if not layers:
        return {}
    names = list(dict.fromkeys(node.input[0] for node in layers.values()))
    session = open_probe(model, names)
    moments: dict[tuple[str, ...], _Moments] = {}
    for start in track(range(0, len(images), CALIBRATION_BATCH), unit="batch"):
        values = session.run(names, {"images": images[start : start + CALIBRATION_BATCH]})
        read = dict(zip(names, values, strict=True))
        for key, node in layers.items():
            columns = _columns(node, torch.from_numpy(read[node.input[0]]))
            if key not in moments:
                moments[key] = _Moments(columns)
            moments[key].add(columns)
    return {key: each.second(centred=centred) for key, each in moments.items()}


class _Moments:
    """First and second moments of columns (in, positions), about a point near their mean, for precision."""

    def __init__(self, columns: Tensor) -> None:
        self._origin = columns.mean(dim=1, keepdim=True)
        self._first = torch.zeros(len(columns), dtype=torch.float64)
        self._second = torch.zeros(len(columns), len(columns), dtype=torch.float64)
        self._count = 0

    def add(self, columns: Tensor) -> None:
        columns = columns - self._origin
        self._first += columns.sum(dim=1)
        self._second += columns @ columns.T
        self._count += columns.shape[1]

    def second(self, *, centred: bool) -> Tensor:
        offset = self._first / self._count
        covariance = self._second / self._count - offset.outer(offset)
        mean = offset + self._origin[:, 0]
        return covariance if centred else covariance + mean.outer(mean)


def _columns(node: onnx.NodeProto, x: Tensor) -> Tensor:
    """What each position of the output is a weighted sum of, (weights of an output, positions)."""
    if node.op_type == "Conv":
        said = _attributes(node)
        top, left, bottom, right = said.get("pads", [0, 0, 0, 0])
        x = functional.pad(x, (left, right, top, bottom))
        kernel, dilation, stride = said["kernel_shape"], said.get("dilations", [1, 1]), said.get("strides", [1, 1])
        x = functional.unfold(x, kernel, dilation=dilation, stride=stride)
    return x.transpose(0, 1).flatten(1)
