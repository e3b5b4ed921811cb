"""What the numbers say, and how they are written."""

import pytest

from stages.lib.report import formatting, render
from stages.lib.report.files import Cost
from stages.lib.report.statistics import Difference, Spread, paired_difference, speed_up, standard_error_pct
from tests.report.run import Run, measured


def test_only_images_that_one_model_alone_misses_make_noise() -> None:
    one, other = measured(range(10), num_images=100), measured(range(5, 25), num_images=100)
    # 5 and 15 images: 200 * sqrt(5 + 15 + 1 - (5 - 15)^2 / 102) / 102 = 8.7732
    assert paired_difference(one, other) == Difference(points=-10.0, noise=8.78)
    assert paired_difference(other, one) == Difference(points=10.0, noise=8.78)


def test_equal_models_differ_by_nothing_yet_not_for_certain() -> None:
    few, many = measured(range(5), num_images=50), measured(range(50, 1000), num_images=10_000)
    assert paired_difference(few, few) == Difference(points=0.0, noise=3.85)
    assert paired_difference(many, many) == Difference(points=0.0, noise=0.02)


def test_a_difference_is_that_of_the_numbers_shown() -> None:
    one, other = measured(range(1005), num_images=30_000), measured(range(1001), num_images=30_000)
    assert paired_difference(one, other).points == 0.01  # 3.35 - 3.34, not 0.0133


@pytest.mark.parametrize(("points", "is_beyond"), [(0.5, False), (-0.5, False), (0.51, True), (-0.51, True)])
def test_a_difference_counts_only_beyond_its_noise(points: float, is_beyond: bool) -> None:
    difference = Difference(points, noise=0.5)
    assert difference.is_beyond_noise == is_beyond
    assert render.difference(difference).startswith("**") == is_beyond


def test_no_mistake_in_a_few_images_is_no_certainty() -> None:
    assert standard_error_pct(measured(num_images=50)) == pytest.approx(2.570, abs=0.001)
    assert standard_error_pct(measured(range(2000), num_images=10_000)) == pytest.approx(0.400, abs=0.001)


def test_speed_is_compared_round_by_round(run: Run) -> None:
    costs = run.results().profile.variants
    slow = costs["base"].model_copy(update={"latency_rounds_ms": [6.0, 12.0, 6.0]})
    fast = Cost.model_validate(costs["base-int8"].model_dump() | {"latency_rounds_ms": [3.0, 3.0, 6.0]})
    spread = speed_up(fast, slow)
    assert (spread.low, spread.median, spread.high) == pytest.approx((1.1, 2.0, 3.8))  # of 1, 2 and 4


@pytest.mark.parametrize(("ratio", "shown"), [(1.699, 1.69), (1.7, 1.7), (2.3, 2.3), (0.2999, 0.29), (9.999999, 9.99)])
def test_a_ratio_is_rounded_down(ratio: float, shown: float) -> None:
    assert formatting.times(ratio) == shown
    assert formatting.ratio(Spread(ratio, ratio, ratio)) == f"{shown:.2f}×"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.significant(0.95, 3), "0.950"),
        (formatting.significant(9.96), "10"),
        (formatting.significant(0), "0.0"),
        (formatting.significant(1_234_567), "1,200,000"),
        (formatting.megabytes(25_610_000), "25.6"),
        (formatting.percent(0.5), "50 %"),
        (formatting.percent(0.99999), "99.999 %"),
        (formatting.percent(1), "100 %"),
        (formatting.count(45_000), "45,000"),
        (formatting.count(0.4), "0.4"),
        (formatting.duration(119), "120 s"),
        (formatting.duration(4321), "72 min"),
        (formatting.duration(7200), "2.0 h"),
        (formatting.ratio(Spread(2.795, 2.85, 2.949)), "2.85× (2.79–2.94)"),
        (render.difference(Difference(-0.1, 0.25)), "-0.10 ± 0.25"),
    ],
)
def test_a_number_is_written_with_the_digits_that_mean_something(text: str, expected: str) -> None:
    assert text == expected
