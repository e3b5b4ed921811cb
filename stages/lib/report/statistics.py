"""What the measurements say: differences and ratios, with how far to trust them."""

import math
from dataclasses import dataclass

import numpy as np

from stages.lib.report.results import Accuracy, Cost, EagerCost

SAME_LATENCY = 0.05  # as a share: medians of interleaved rounds still wander by a few percent
SAME_SIZE = 0.01


@dataclass(frozen=True)
class Difference:
    """A difference between two top-1 errors in percentage points, with its noise.

    Attributes:
        points: As the errors differ when rounded to two decimals.
        noise: Two standard errors, rounded up to two decimals.
    """

    points: float
    noise: float

    @property
    def is_beyond_noise(self) -> bool:
        """Whether other test images would hardly turn the sign."""
        return abs(self.points) > self.noise


@dataclass(frozen=True)
class Spread:
    """The median with the 5th and the 95th percentile."""

    low: float
    median: float
    high: float


def standard_error_pct(accuracy: Accuracy) -> float:
    """Standard error of the top-1 error, in percentage points.

    Two right and two wrong answers are added, so that it holds for few mistakes too (Agresti and Coull, 1998).
    """
    num_images = accuracy.num_images + 4
    error = (accuracy.missed.bit_count() + 2) / num_images
    return 100 * math.sqrt(error * (1 - error) / num_images)


def paired_difference(one: Accuracy, other: Accuracy) -> Difference:
    """The top-1 error of one minus that of the other, both on the same images.

    Only images that one of the two alone misses add noise. Each kind counts half an image more, so that the noise
    holds for few of them too (Agresti and Min, 2005).
    """
    ours, theirs = (one.missed & ~other.missed).bit_count(), (other.missed & ~one.missed).bit_count()
    num_images = one.num_images + 2
    noise = 200 * math.sqrt(ours + theirs + 1 - (ours - theirs) ** 2 / num_images) / num_images
    points = round(one.top1_error_pct, 2) - round(other.top1_error_pct, 2)
    return Difference(round(points, 2), math.ceil(100 * noise - 1e-9) / 100)


def speed_up(cost: Cost, reference: Cost | EagerCost) -> Spread:
    """How many times as fast as the reference, by round: a busy moment slows all that run in one."""
    ratios = np.divide(reference.latency_rounds_ms, cost.latency_rounds_ms)  # (rounds,)
    low, median, high = np.percentile(ratios, (5, 50, 95)).tolist()
    return Spread(low, median, high)
