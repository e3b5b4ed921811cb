"""The figures: SVG text, the same for the same numbers."""

from itertools import pairwise

from made_up_run import Run

from stages.lib.report.figures import _spread, draw_channels, draw_curves, draw_tradeoffs
from stages.lib.report.tables import variant_rows


def test_figures_are_the_same_bytes_each_time(run: Run) -> None:
    results = run.results()
    for first, second in (
        (draw_curves(results), draw_curves(results)),
        (draw_tradeoffs(variant_rows(results)), draw_tradeoffs(variant_rows(results))),
        (draw_channels(results.compression), draw_channels(results.compression)),
    ):
        assert "<svg" in first
        assert first == second


def test_curves_of_one_epoch_or_without_image_sizes_are_drawn(run: Run) -> None:
    with_sizes = draw_curves(run.results())
    run.write_curve("base", num_epochs=1, sizes=False)
    assert len(draw_curves(run.results())) < len(with_sizes)


def test_names_of_points_are_moved_apart_and_stay_inside() -> None:
    spread = _spread([0.1, 0.11, 0.9, 0.95, 0.96, 0.97])
    assert spread[0] == 0.1
    assert min(b - a for a, b in pairwise(spread)) > 0.069
    assert spread[-1] < 1
