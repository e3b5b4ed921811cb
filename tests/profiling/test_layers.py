"""How long each layer takes."""

from pathlib import Path

import onnx
import pytest
import torch

from stages.lib.lowrank import factorize
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.profiling.layers import layer_times_us
from stages.lib.quantization.export import export_onnx


@pytest.mark.parametrize("factorized", [False, True])
def test_the_time_of_each_layer_is_told_by_its_name(tiny: GoogLeNet, tmp_path: Path, factorized: bool) -> None:
    layers = list(tiny.layers())
    if factorized:
        images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        tiny = factorize(tiny, images, macs_ratio=0.9, layers=["blocks.*.branch2.1"], round_to=1)
    export_onnx(tiny, tmp_path / "tiny.onnx", classes=["ant", "bee", "cat"], image_size=32)
    times = layer_times_us(tmp_path / "tiny.onnx", layers, threads=1)
    assert set(times) == {*layers, "concatenation", "pooling", "rest"}
    assert min(times.values()) > 0


def test_convolutions_are_named_as_in_the_network(tiny: GoogLeNet, tmp_path: Path) -> None:
    export_onnx(tiny, tmp_path / "tiny.onnx", classes=["ant", "bee", "cat"], image_size=32)
    nodes = onnx.load(tmp_path / "tiny.onnx").graph.node
    assert {node.name for node in nodes if node.op_type in ("Conv", "Gemm")} == set(tiny.layers())


def test_layers_of_equal_weights_which_the_exporter_stores_once_have_different_names(
    tiny: GoogLeNet, tmp_path: Path
) -> None:
    for weight in tiny.parameters():
        if weight.dim() == 4:
            weight.data.zero_()
    export_onnx(tiny, tmp_path / "tiny.onnx", classes=["ant", "bee", "cat"], image_size=32)
    nodes = onnx.load(tmp_path / "tiny.onnx").graph.node
    assert len({node.name for node in nodes}) == len(nodes)
