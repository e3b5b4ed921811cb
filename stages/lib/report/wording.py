"""Measured numbers in words: how many digits they deserve, and whether a difference is one."""

import math
from collections.abc import Sequence

import numpy as np

from stages.lib.report.results import Accuracy, Cost, EagerCost, Variant

DASH = "\N{EN DASH}"
SAME_LATENCY = 0.05  # medians of interleaved rounds still wander by a few percent
SAME_SIZE = 0.01


def significant(value: float | None, digits: int = 2) -> str:
    """`value` with this many significant digits, trailing zeros kept, thousands separated; a dash for None."""
    if value is None:
        return DASH
    rounded = float(f"{value:.{digits}g}")
    magnitude = math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{rounded:,.{max(0, digits - 1 - magnitude)}f}"


def megabytes(num_bytes: int) -> str:
    """A file's size in units of 10^6 bytes."""
    return significant(num_bytes / 1e6, 3)


def percent(share: float) -> str:
    """A share in percent, without digits that say nothing; what is less than all isn't rounded up to it."""
    digits = 3
    while share < 1 and float(f"{100 * share:.{digits}g}") == 100:
        digits += 1
    return f"{100 * share:.{digits}g} %"


def plural(count: float, noun: str) -> str:
    """`1 epoch`, `1,200 epochs`, `0.4 epochs`."""
    return f"{count:,.15g} {noun}" + "s" * (count != 1)


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{significant(seconds / length)} {unit}"
    return f"{significant(seconds)} s"


def standard_error_pct(accuracy: Accuracy) -> float:
    """Standard error of the top-1 error, in percentage points.

    Two right and two wrong answers are added, so that it holds for few mistakes too (Agresti and Coull, 1998).
    """
    num_images = accuracy.num_images + 4
    error = (accuracy.missed.bit_count() + 2) / num_images
    return 100 * math.sqrt(error * (1 - error) / num_images)


def noise_of_change(one: Accuracy, other: Accuracy) -> float:
    """Two standard errors of the difference between two top-1 errors on the same images, in percentage points.

    Only images that one of the two alone misses count, each kind with half an image more, so that it holds for few of
    them too (Agresti and Min, 2005).
    """
    ours, theirs = (one.missed & ~other.missed).bit_count(), (other.missed & ~one.missed).bit_count()
    num_images = one.num_images + 2
    return 200 * math.sqrt(ours + theirs + 1 - (ours - theirs) ** 2 / num_images) / num_images


def within_noise(one: Accuracy, other: Accuracy) -> bool:
    """Whether other test images could turn which of two top-1 errors is the lower one."""
    return abs(one.top1_error_pct - other.top1_error_pct) <= noise_of_change(one, other)


def times(ratio: float) -> float:
    """A ratio as it is shown: with two decimals and rounded down, so that none looks like a goal that it misses."""
    return math.floor(100 * ratio + 1e-9) / 100


def speed_ups(cost: Cost, reference: Cost | EagerCost) -> np.ndarray:
    """How many times as fast as the reference in each round, (rounds,): a busy moment slows all that run in one."""
    return np.divide(reference.latency_rounds_ms, cost.latency_rounds_ms)


def speed_up(variant: Variant, reference: Variant) -> float:
    """How many times as fast as the reference, the median over the rounds."""
    return float(np.median(speed_ups(variant.cost, reference.cost)))


def shrinkage(variant: Variant, reference: Variant) -> float:
    """How many times the variant's file fits into the reference's."""
    return reference.cost.file_bytes / variant.cost.file_bytes


def is_faster(variant: Variant, reference: Variant) -> bool:
    """Whether the variant is faster by more than timings wander."""
    return speed_up(variant, reference) >= 1 + SAME_LATENCY


def is_smaller(variant: Variant, reference: Variant) -> bool:
    """Whether the variant's file is smaller by more than a trifle."""
    return shrinkage(variant, reference) >= 1 + SAME_SIZE


def error_change(variant: Variant, reference: Variant) -> float:
    """Percentage points of top-1 error above the reference, as the rounded errors beside it differ."""
    return round(round(variant.accuracy.top1_error_pct, 2) - round(reference.accuracy.top1_error_pct, 2), 2)


def error_verdict(variant: Variant, reference: Variant) -> str:
    """What happened to the top-1 error: `raises the top-1 error by 1.42 points (...), beyond the noise of ...`."""
    ours, theirs = variant.accuracy, reference.accuracy
    delta = error_change(variant, reference)
    if delta == 0:
        return f"has the same top-1 error, {ours.top1_error_pct:.2f} %"
    change = f"{'raises' if delta > 0 else 'lowers'} the top-1 error by {abs(delta):.2f} points"
    noise = "within" if within_noise(ours, theirs) else "beyond"
    numbers = f"{ours.top1_error_pct:.2f} % against {theirs.top1_error_pct:.2f} %"
    return f"{change} ({numbers}), {noise} the noise of {ours.num_images:,} test images"


def latency_verdict(variant: Variant, reference: Variant) -> str:
    """What happened to the latency: `is 1.32 times as fast (5.0 against 6.6 ms an image)`."""
    ours, theirs = (significant(each.cost.latency_cpu_ms) for each in (variant, reference))
    numbers = f"({ours} against {theirs} ms an image)"
    if is_faster(variant, reference):
        return f"is {times(speed_up(variant, reference)):.2f} times as fast {numbers}"
    if is_faster(reference, variant):
        return f"is slower: it takes {times(speed_up(reference, variant)):.2f} times as long {numbers}"
    return f"is no faster {numbers}"


def size_verdict(variant: Variant, reference: Variant) -> str:
    """What happened to the file: `shrinks 1.57-fold, from 25.7 to 16.4 MB`."""
    before, after = megabytes(reference.cost.file_bytes), megabytes(variant.cost.file_bytes)
    if is_smaller(variant, reference):
        return f"shrinks {times(shrinkage(variant, reference)):.2f}-fold, from {before} to {after} MB"
    if is_smaller(reference, variant):
        return f"grows {times(shrinkage(reference, variant)):.2f}-fold, from {before} to {after} MB"
    return f"keeps its size, {after} MB"


def gains_nothing(variant: Variant, reference: Variant) -> bool:
    """Whether the variant is neither smaller, nor faster, nor more accurate than the reference."""
    more_accurate = variant.accuracy.top1_error_pct < reference.accuracy.top1_error_pct and not within_noise(
        variant.accuracy, reference.accuracy
    )
    return not (more_accurate or is_smaller(variant, reference) or is_faster(variant, reference))
