"""Learning rate and image size by step."""

import pytest

from stages.lib.schema import Params, Recipe
from stages.lib.training.schedule import image_size, learning_rate


@pytest.fixture
def recipe(demo: Params) -> Recipe:
    changes = {"epochs": 10, "lr": 0.4, "warmup_epochs": 2, "image_sizes": {16: 3, 24: 1, 32: 1}}
    return demo.train.model_copy(update=changes)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_rate_rises_to_its_peak_and_falls_to_zero(recipe: Recipe, schedule: str) -> None:
    recipe = recipe.model_copy(update={"schedule": schedule})
    rates = [learning_rate(step, recipe=recipe, steps_per_epoch=10) for step in range(100)]
    assert max(rates) == rates[20] == pytest.approx(0.4)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert rates[60] == pytest.approx(0.2)


@pytest.mark.parametrize(("schedule", "early"), [("cosine", 0.4 * (1 + 2**-0.5) / 2), ("one_cycle", 0.3)])
def test_rate_starts_above_zero_and_falls_along_its_curve(recipe: Recipe, schedule: str, early: float) -> None:
    recipe = recipe.model_copy(update={"schedule": schedule})
    assert learning_rate(0, recipe=recipe, steps_per_epoch=10) == pytest.approx(0.4 / 21)
    assert learning_rate(40, recipe=recipe, steps_per_epoch=10) == pytest.approx(early)


def test_sizes_take_their_shares_of_the_steps_in_order(recipe: Recipe) -> None:
    sizes = [image_size(step, recipe=recipe, steps_per_epoch=10, full_size=32) for step in range(100)]
    assert sizes == [16] * 60 + [24] * 20 + [32] * 20


def test_sizes_are_in_proportion_to_those_of_whole_images(recipe: Recipe) -> None:
    sizes = {image_size(step, recipe=recipe, steps_per_epoch=10, full_size=128) for step in range(100)}
    assert sizes == {64, 96, 128}
