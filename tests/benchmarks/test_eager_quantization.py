"""PyTorch's own static quantization, as a benchmark."""

import pytest
import torch

from benchmarks.eager_quantization import EagerNet, quantized
from stages.lib.network.googlenet import GoogLeNet


@pytest.mark.filterwarnings("ignore")  # eager mode is deprecated
@pytest.mark.parametrize("observes", [False, True])
def test_the_eager_network_is_ours_and_its_int8_comes_near(tiny: GoogLeNet, observes: bool) -> None:
    images = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tiny(images)
        net = EagerNet(tiny, observes_concatenation=observes)
        assert torch.allclose(net(images), expected, atol=1e-4)
        int8 = quantized(tiny, images, observes_concatenation=observes)
        assert (int8(images) - expected).norm() < 0.2 * (expected - expected.mean(dim=0)).norm() + 0.2
    layers = [type(module).__module__ for module in int8.modules()]
    assert any("quantized" in name for name in layers)
