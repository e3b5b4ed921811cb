"""Weights rounded in turn."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from stages.lib.quantization.rounding import gptq, weight_scales

LEVELS = 7


@pytest.fixture
def images() -> np.ndarray:
    """Smooth ones, so that neighbouring pixels say much about each other."""
    coarse = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return (255 * functional.interpolate(coarse, size=32, mode="bilinear")).byte().permute(0, 2, 3, 1).numpy()


class Net(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 8, 3, padding=1, groups=groups)
        self.linear = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(images.permute(0, 3, 1, 2).float() / 255).relu()).relu()
        logits: torch.Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def export(path: Path, *, groups: int = 1, sparse: bool = False) -> Net:
    torch.manual_seed(0)
    net = Net(groups)
    if sparse:
        functional.dropout(net.second.weight.data, 0.7, inplace=True)
    example = (torch.zeros(2, 32, 32, 3, dtype=torch.uint8),)
    shapes = ({0: torch.export.Dim("batch")},)
    names = {"input_names": ["images"], "output_names": ["logits"]}
    torch.onnx.export(net.eval(), example, path, dynamic_shapes=shapes, verbose=False, **names)
    return net


def rounded(
    path: Path, images: np.ndarray, *, centred: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    scales = weight_scales(onnx.load(path), LEVELS)
    return scales, gptq(path, images, scales, levels=LEVELS, centred=centred)


@pytest.mark.parametrize("centred", [True, False])
def test_outputs_change_less_than_with_the_nearest_levels(tmp_path: Path, images: np.ndarray, centred: bool) -> None:
    net = export(tmp_path / "net.onnx")
    scales, weights = rounded(tmp_path / "net.onnx", images, centred=centred)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    for name, layer in (("first", net.first), ("second", net.second)):
        whole = layer(x).detach()
        errors = []
        step = torch.from_numpy(scales[f"{name}.weight"]).view(-1, 1, 1, 1)
        for weight in (torch.from_numpy(weights[f"{name}.weight"]), (layer.weight / step).round() * step):
            difference = functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding) - whole
            mean = difference.mean(dim=(0, 2, 3), keepdim=True) if centred else 0  # which the bias takes
            errors.append((difference - mean).square().mean(dim=(0, 2, 3)).detach())
        assert errors[0].sum() < 0.5 * errors[1].sum()
        x = whole.relu()


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_are_whole_multiples_of_their_steps_and_zeros_stay(
    tmp_path: Path, images: np.ndarray, groups: int
) -> None:
    net = export(tmp_path / "net.onnx", groups=groups, sparse=True)
    scales, weights = rounded(tmp_path / "net.onnx", images)
    assert set(weights) == {"first.weight", "second.weight", "linear.weight"}
    for name, weight in weights.items():
        levels = weight / scales[name].reshape(-1, *[1] * (weight.ndim - 1))
        assert np.allclose(levels, levels.round(), atol=1e-4) and np.abs(levels).max() <= LEVELS + 1e-4
    zeros = net.second.weight.detach().numpy() == 0
    assert zeros.mean() > 0.5 and not weights["second.weight"][zeros].any()
    assert np.abs(weights["second.weight"] - net.second.weight.detach().numpy()).max() < 1


def test_layers_that_read_next_to_nothing_are_rounded_all_the_same(tmp_path: Path, images: np.ndarray) -> None:
    net = export(tmp_path / "net.onnx")
    scales, weights = rounded(tmp_path / "net.onnx", np.full_like(images, 200))
    difference = np.abs(weights["linear.weight"] - net.linear.weight.detach().numpy())
    assert (difference <= LEVELS * scales["linear.weight"][:, None]).all()


def test_a_layer_whose_kernel_shape_only_its_weight_tells_is_rounded_to_the_nearest(
    tmp_path: Path, images: np.ndarray
) -> None:
    net = export(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    for node in model.graph.node:
        kept = [attribute for attribute in node.attribute if attribute.name != "kernel_shape"]
        del node.attribute[:]
        node.attribute.extend(kept)
    onnx.save(model, tmp_path / "net.onnx")
    scales, weights = rounded(tmp_path / "net.onnx", images)
    step = torch.from_numpy(scales["second.weight"]).view(-1, 1, 1, 1)
    nearest = (net.second.weight / step).round() * step
    assert np.allclose(weights["second.weight"], nearest.detach().numpy(), atol=1e-6)
