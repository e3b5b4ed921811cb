"""The benchmark of channel counts."""

import numpy as np
import torch

from benchmarks.channels import networks, speed
from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
from stages.lib.profiling.measuring import Measurement


def test_channels_come_in_the_multiples_that_the_rows_name() -> None:
    torch.manual_seed(0)
    base = GoogLeNet(Architecture(scaled_widths(1), num_classes=3, stem_pool=True, dropout=0.0))
    widths = {name: network.architecture.widths for name, network in networks(base).items()}
    assert any(width % 8 for width in widths["as they come"])
    assert not any(width % 8 for width in widths["multiples of 8"])
    assert not any(width % 16 for width in widths["multiples of 16"])
    assert all(sum(kept) < sum(widths["all"]) for name, kept in widths.items() if name != "all")


def test_the_ratio_is_taken_in_each_round() -> None:
    base, other = (Measurement(np.array(times), {}) for times in ([2.0, 2.0, 8.0, 8.0], [1.0, 1.0, 4.0, 4.0]))
    assert speed(other, base, rounds=2) == ("2.50", "2.00× (2.00 to 2.00)")
