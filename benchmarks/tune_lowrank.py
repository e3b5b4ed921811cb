"""Which layers gain from low-rank factorization on this machine: `make tune-lowrank`.

Each layer of the base model runs alone in ONNX Runtime, whole and as the two layers of half its MACs, one image at a
time and in turns. Prints both latencies and the list of layers that gain, to be pasted into params.yaml: a model must
not depend on a noisy timing, so nothing is written.
"""

import argparse
import statistics
import time

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from tabulate import tabulate
from torch import nn

from stages.lib.artifacts import model_path
from stages.lib.network.checkpoint import load_model
from stages.lib.network.googlenet import ConvBN, GoogLeNet
from stages.lib.params import load_params
from stages.lib.stage import one_line_errors

BASE = model_path("base")
GAIN = 1.05  # below this a difference may be noise
ROUNDS, CALLS = 30, 20
HEADERS = ("layer", "rank", "whole, us", "two layers, us", "times as fast")

Kernel = tuple[int, int, int, int]  # out, in, height, width


def main() -> None:
    """Read params.yaml and the base model, print a table and a list."""
    params = load_params()
    if not BASE.exists():
        raise ValueError(f"{BASE} must be there, got no such file; run dvc pull --allow-missing, or dvc repro train")
    rows = measure_layers(
        load_model(BASE), image_size=params.data.image_size, round_to=params.lowrank.round_to, rounds=ROUNDS
    )
    print(tabulate(rows, headers=HEADERS, floatfmt=("", "", ".0f", ".0f", ".2f")))
    print(f"\nmedians of {ROUNDS} rounds of {CALLS} calls on one thread\n\n  layers:")
    for name, _, _, _, ratio in rows:
        if ratio > GAIN:
            print(f"    - {name}")


def measure_layers(
    model: GoogLeNet, *, image_size: int, round_to: int, rounds: int
) -> list[tuple[str, int, float, float, float]]:
    """Time every layer that can be halved.

    Returns:
        Name, rank, microseconds whole, microseconds as two layers, and the ratio of these, for each such layer.
    """
    rows = []
    for name, (kernel, stride, shape) in _kernels(model, image_size).items():
        num_out, num_in, k, _ = kernel
        rank = num_in * num_out * k // (2 * (num_in + num_out))
        if not (rank := rank - rank % round_to):
            continue
        halves: list[Kernel] = [(rank, num_in, k, 1), (num_out, rank, 1, k)]
        versions = [
            _session([kernel], [(stride, stride)], shape),
            _session(halves, [(stride, 1), (1, stride)], shape),
        ]
        image = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for session, measured in zip(versions, times, strict=True):
                session.run(None, image)
                start = time.perf_counter()
                for _ in range(CALLS):
                    session.run(None, image)
                measured.append(1e6 * (time.perf_counter() - start) / CALLS)
        whole, factorized = map(statistics.median, times)
        rows.append((name, rank, whole, factorized, whole / factorized))
    return rows


def _kernels(model: GoogLeNet, image_size: int) -> dict[str, tuple[Kernel, int, tuple[int, ...]]]:
    """The shape of each layer's weights, its stride, and the shape of what it reads from one image.

    The linear layer counts as a 1x1 convolution.
    """
    found: dict[str, tuple[Kernel, int, tuple[int, ...]]] = {}

    def look(name: str, module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        layer = module[0] if isinstance(module, ConvBN) else module
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        num_out, num_in, height, width = (*layer.weight.shape, 1, 1)[:4]
        stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
        found[name] = (num_out, num_in, height, width), stride, (*inputs[0].shape, 1, 1)[:4]

    handles = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: look(name, module, inputs))
        for name, module in model.layers().items()
    ]
    with torch.inference_mode():
        model(torch.zeros(1, 3, image_size, image_size))
    for handle in handles:
        handle.remove()
    return found


def _session(
    kernels: list[Kernel], strides: list[tuple[int, int]], shape: tuple[int, ...]
) -> onnxruntime.InferenceSession:
    """Convolutions one after the other, with random weights: how long they take does not depend on values."""
    rng = np.random.default_rng(0)
    weights, nodes = [], []
    for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
        weights.append(numpy_helper.from_array(rng.normal(size=kernel).astype(np.float32), f"w{i}"))
        pads = [kernel[2] // 2, kernel[3] // 2] * 2
        nodes.append(
            helper.make_node("Conv", [f"y{i - 1}" if i else "x", f"w{i}"], [f"y{i}"], pads=pads, strides=stride)
        )
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                f"y{len(kernels) - 1}", TensorProto.FLOAT, (1, kernels[-1][0], "height", "width")
            )
        ],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a layer takes microseconds: waking a second thread would be timed instead
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with one_line_errors("tune-lowrank"):
        main()
