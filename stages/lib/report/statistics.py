"""What the measurements say: differences and ratios, with how far to trust them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from stages.lib.report.files import Accuracy, AdoptedCost, EagerCost

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
class ClassChange:
    """How the error on the images of one class changed, in percentage points."""

    name: str
    points: float


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
    error = (accuracy.missed.sum() + 2) / num_images
    return 100 * math.sqrt(error * (1 - error) / num_images)


def paired_difference(one: Accuracy, other: Accuracy) -> Difference:
    """The top-1 error of one minus that of the other, both on the same images.

    Only images that one of the two alone misses add noise. Each kind counts half an image more, so that the noise
    holds for few of them too (Agresti and Min, 2005).
    """
    ours, theirs = _missed_by_one_alone(one, other)
    num_images = one.num_images + 2
    noise = 200 * math.sqrt(ours + theirs + 1 - (ours - theirs) ** 2 / num_images) / num_images
    points = round(one.top1_error_pct, 2) - round(other.top1_error_pct, 2)
    return Difference(round(points, 2), math.ceil(100 * noise - 1e-9) / 100)


def mcnemar_p(one: Accuracy, other: Accuracy) -> float:
    """Probability of a difference at least as large if both models were equally accurate: McNemar's exact test."""
    ours, theirs = _missed_by_one_alone(one, other)
    return float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0


def _missed_by_one_alone(one: Accuracy, other: Accuracy) -> tuple[int, int]:
    return int((one.missed & ~other.missed).sum()), int((other.missed & ~one.missed).sum())


def class_changes(one: Accuracy, other: Accuracy) -> list[ClassChange]:
    """The change of the error on each class that has test images, from `other` to `one`, rising."""
    counts = np.bincount(one.labels, minlength=len(one.classes))
    wrong = [np.bincount(each.labels, weights=each.missed, minlength=len(counts)) for each in (one, other)]
    points = 100 * (wrong[0] - wrong[1]) / np.maximum(counts, 1)
    order = [label for label in np.argsort(points, kind="stable") if counts[label]]
    return [ClassChange(one.classes[label], float(points[label])) for label in order]


def superclass_error_pct(accuracy: Accuracy, superclasses: Mapping[str, Sequence[str]]) -> float:
    """Percentage of images whose predicted class is not even in the same superclass."""
    of_class = {name: superclass for superclass, names in superclasses.items() for name in names}
    index = np.unique([of_class[name] for name in accuracy.classes], return_inverse=True)[1]
    return 100 * float((index[accuracy.predictions] != index[accuracy.labels]).mean())


def speed_up(cost: AdoptedCost, reference: AdoptedCost | EagerCost) -> Spread:
    """How many times as fast as the reference, by round: a busy moment slows all that run in one."""
    ratios = np.divide(reference.latency_rounds_ms, cost.latency_rounds_ms)  # (rounds,)
    low, median, high = np.percentile(ratios, (5, 50, 95)).tolist()
    return Spread(low, median, high)
