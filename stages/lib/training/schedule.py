"""What depends on the step alone: the learning rate and the size of the images."""

import math

import numpy as np

from stages.lib.schema import Recipe
from stages.lib.training.augmentation import UNIT


def learning_rate(step: int, *, recipe: Recipe, steps_per_epoch: int) -> float:
    """Learning rate of a step: linear warm-up, then cosine or linear to zero."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / (recipe.epochs * steps_per_epoch - warmup)
    return recipe.lr * (1 - done if recipe.schedule == "one_cycle" else (1 + math.cos(math.pi * done)) / 2)


def image_size(step: int, *, recipe: Recipe, steps_per_epoch: int, full_size: int) -> int:
    """Side in pixels of the images of a step, where whole ones have `full_size`."""
    shares = np.cumsum(list(recipe.image_sizes.values()))
    phase = np.searchsorted(shares / shares[-1], step / (recipe.epochs * steps_per_epoch), side="right")
    return round(list(recipe.image_sizes)[int(phase)] * full_size / UNIT)
