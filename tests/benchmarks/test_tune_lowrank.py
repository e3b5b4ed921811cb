"""The benchmark that proposes layers for factorization."""

from benchmarks.tune_lowrank import measure_layers
from stages.lib.network.googlenet import GoogLeNet


def test_every_layer_that_can_be_halved_is_measured_at_that_rank(tiny: GoogLeNet) -> None:
    rows = {
        name: (rank, whole, factorized)
        for name, rank, whole, factorized, _ in measure_layers(tiny, image_size=32, round_to=1, rounds=1)
    }
    assert set(rows) <= set(tiny.layers())
    rank, whole, factorized = rows["stem.2"]
    assert rank == 6 * 19 * 3 // (2 * (6 + 19))
    assert whole > 0
    assert factorized > 0
    assert "stem.0" in rows
