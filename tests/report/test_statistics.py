"""Differences and ratios, with their noise."""

import pytest
from made_up_run import read_accuracy

from stages.lib.report.results import Cost
from stages.lib.report.statistics import paired_difference, speed_up, standard_error_pct


def test_a_difference_has_two_standard_errors_of_the_pairs() -> None:
    difference = paired_difference(read_accuracy(22.0), read_accuracy(20.0, first_missed=1000))
    # 1000 and 800 images that one of the two alone misses.
    assert difference.points == 2.0
    assert difference.noise == pytest.approx(2 * 100 * (1800 - 200**2 / 1e4) ** 0.5 / 1e4, abs=0.011)
    assert difference.is_beyond_noise


def test_images_that_both_models_miss_add_no_noise() -> None:
    assert paired_difference(read_accuracy(20.5), read_accuracy(20.0)).noise < 0.2
    assert paired_difference(read_accuracy(20.5), read_accuracy(20.0)).is_beyond_noise
    assert not paired_difference(read_accuracy(20.5), read_accuracy(20.0, first_missed=1000)).is_beyond_noise


@pytest.mark.parametrize(("error", "num_images"), [(8.0, 50), (23.0, 40)])
def test_few_test_images_make_a_large_difference_noise(error: float, num_images: int) -> None:
    ours, theirs = read_accuracy(error, num_images=num_images, first_missed=20), read_accuracy(8, num_images=num_images)
    assert not paired_difference(ours, theirs).is_beyond_noise


def test_noise_is_rounded_up_so_that_a_difference_as_large_is_within_it() -> None:
    difference = paired_difference(read_accuracy(20.26, first_missed=71), read_accuracy(20.0))
    assert difference.noise == round(difference.noise, 2)
    assert paired_difference(read_accuracy(20.0), read_accuracy(20.0)).noise == 0.02  # of one image


def test_no_mistake_in_a_few_images_is_no_certainty() -> None:
    assert 2 < standard_error_pct(read_accuracy(0.0, num_images=50)) < 4
    assert standard_error_pct(read_accuracy(20.0)) == pytest.approx(0.4, abs=0.001)


def test_a_busy_round_moves_no_ratio() -> None:
    slow, fast = ([6.0, 12.0, 6.0], [3.0, 6.0, 1.5])
    ratio = speed_up(*(Cost.model_construct(latency_rounds_ms=rounds) for rounds in (fast, slow)))
    assert (ratio.low, ratio.median) == (2.0, 2.0)
    assert 2 < ratio.high < 4
