"""The network."""

import numpy as np
import pytest
import torch

from stages.lib.costs import count_macs
from stages.lib.network.googlenet import Architecture, GoogLeNet, Inception, scaled_widths, stem_stride_for


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


@pytest.mark.parametrize("ranks", [(), (0,) * 3 + (2,) + (0,) * 63])
def test_heads_that_share_an_input_train_as_if_apart(monkeypatch: pytest.MonkeyPatch, ranks: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    widths = scaled_widths(0.1)
    model = GoogLeNet(Architecture(widths, num_classes=3, stem_pool=True, dropout=0.0, ranks=ranks)).double()
    block, x = model.blocks[0].train(), torch.rand(4, widths[2], 5, 5, dtype=torch.double)

    def gradients() -> list[torch.Tensor]:
        images = x.clone().requires_grad_()
        loss = (block(images) ** 2).sum()
        return list(torch.autograd.grad(loss, [images, *block.parameters()]))

    together = gradients()
    monkeypatch.setattr(Inception, "_heads", lambda self, x: [self.branch1(x), self.branch2[0](x), self.branch3[0](x)])
    for one, other in zip(together, gradients(), strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def strided(stride: int, width: float = 0.1) -> GoogLeNet:
    torch.manual_seed(0)
    return GoogLeNet(Architecture(scaled_widths(width), num_classes=3, stem_pool=True, dropout=0.0, stem_stride=stride))


@pytest.mark.parametrize(("size", "stride"), [(32, 1), (64, 1), (65, 2), (128, 2), (129, 4), (256, 4)])
def test_an_image_costs_at_most_four_times_one_of_32_pixels(size: int, stride: int) -> None:
    assert stem_stride_for(size) == stride
    with torch.device("meta"):
        small, large = (
            count_macs(strided(s, width=1.0), torch.zeros(1, 3, n, n)) for s, n in ((1, 32), (stride, size))
        )
    assert large <= 4.04 * small


@pytest.mark.parametrize("stride", [2, 4])
def test_a_stride_skips_no_pixel_and_changes_no_parameter(stride: int) -> None:
    model = strided(stride).double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.stem[:3](image).sum(), image)
    assert (gradient != 0).all()
    model.load_state_dict(strided(1).state_dict())


def test_another_stride_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"stem_stride must be one of \[1, 2, 4\], got 3"):
        strided(3)
