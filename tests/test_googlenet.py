"""The network."""

import numpy as np
import pytest
import torch

from stages.lib.googlenet import Architecture, GoogLeNet, scaled_widths


def num_parameters(**changes: object) -> int:
    values = {"widths": scaled_widths(1.0), "num_classes": 100, "stem_pool": True, "dropout": 0.0} | changes
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GoogLeNet(Architecture(**values)).parameters())  # type: ignore[arg-type]


def test_full_network_has_the_parameters_of_the_original() -> None:
    assert num_parameters() == 6_402_564


def test_stem_pool_changes_no_parameter() -> None:
    assert num_parameters(stem_pool=False) == num_parameters()


def test_widths_scale_and_never_vanish() -> None:
    assert scaled_widths(0.5)[:3] == (32, 32, 96)
    assert min(scaled_widths(0.001)) == 1


@pytest.mark.parametrize("widths", [(64, 64), (*scaled_widths(1.0)[:-1], 0)])
def test_impossible_widths_are_an_error(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="widths must be 66 counts of at least 1"):
        num_parameters(widths=widths)


@pytest.mark.parametrize("size", [8, 16, 24, 32])
def test_any_image_size_gives_logits(tiny: GoogLeNet, size: int) -> None:
    assert tiny(torch.rand(2, 3, size, size)).shape == (2, 3)


def test_normalization_is_part_of_the_network(tiny: GoogLeNet) -> None:
    images = torch.rand(2, 3, 32, 32)
    before = tiny(images)
    mean, std = tiny.mean.clone(), tiny.std.clone()
    tiny.set_normalization(np.zeros(3), np.ones(3))
    assert torch.allclose(tiny((images - mean) / std), before, atol=1e-5)
