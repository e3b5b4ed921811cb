"""What this project set out to reach, beside what the run measured: met or not, and the cause where not."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stages.lib.report.causes import (
    base_error_cause,
    eager_cause,
    flagship_cause,
    int8_cause,
    int8_size_cause,
    pruning_cause,
    sparse_size_cause,
    speed_cause,
)
from stages.lib.report.results import Results, Variant
from stages.lib.report.tables import text_table
from stages.lib.report.wording import (
    SAME_LATENCY,
    error_change,
    noise_of_change,
    percent,
    shrinkage,
    speed_up,
    speed_ups,
    standard_error_pct,
    times,
)

GOAL_RATIO, GOAL_SPARSITY = 0.2, 0.8  # the goals of pruning hold for these
ROUNDING = 0.01  # how much more than the ratio may be gone, since `prune.round_to` can miss it by that
ORIGINAL_ERROR_PCT = 22.96  # of the original report's base model
BASE_ERROR_PCT = 19.5
MAX_INT8_LOSS, MAX_SPARSE_LOSS = 0.2, 0.5  # points
MIN_SPARSE_SHRINKAGE = 4.0
MIN_INT8_SHRINKAGE = {"base": 3.8, "structured": 3.7}
MIN_INT8_SPEED_UP = 1.7
FLAGSHIP = "distilled-int8"
FLAGSHIP_MEGABYTES = 1.0
FLAGSHIP_SPEED_UP = 10.0


@dataclass(frozen=True)
class Promise:
    """A goal beside its figure.

    Attributes:
        goal: What was to be reached, in words.
        unit: Of `measured` and `limit`, as written after a number.
        measured: Rounded as it is shown, so that table and verdict never disagree.
        limit: The most that is allowed, or the least where `at_least`.
        noise: To miss or to reach the goal by up to this may be chance.
        cause: A sentence on why, shown only where the goal is missed.
    """

    goal: str
    unit: str
    measured: float
    limit: float
    at_least: bool
    noise: float
    cause: str

    @property
    def missed_by(self) -> float:
        """How far the figure is from the goal; 0 or less where it is met."""
        return round(self.limit - self.measured if self.at_least else self.measured - self.limit, 2)

    @property
    def is_met(self) -> bool:
        """Whether the figure reaches the goal."""
        return self.missed_by <= 0

    @property
    def verdict(self) -> str:
        """`yes`, or `no, by 0.31 points`; `, within noise` where other measurements could turn it."""
        unit = " points" if self.unit == " %" else self.unit  # two percentages differ by points
        verdict = "yes" if self.is_met else f"no, by {self.missed_by:.2f}{unit}"
        return f"{verdict}, within noise" if self.is_noise else verdict

    @property
    def is_noise(self) -> bool:
        """Whether other test images or another profile could turn the verdict."""
        return self.noise > 0 and abs(self.missed_by) <= self.noise


def promises_section(results: Results) -> str:
    """A table of the goals of this run's variants, what keeps others out of it, and the cause of each miss."""
    made = list(promises(results))
    rows = [{"Goal": each.goal, "Measured": f"{each.measured:.2f}{each.unit}", "Met": each.verdict} for each in made]
    parts = [text_table(rows)] if rows else []
    parts += _left_out(results)
    if any(each.is_noise for each in made):
        parts.append(
            "A miss within noise is a miss all the same, but other test images or another profile could turn it, as "
            "they could a goal that is met within noise. Noise is two standard errors for an error, and "
            f"{percent(SAME_LATENCY)} for a latency."
        )
    if missed := [each for each in made if not each.is_met]:
        parts += ["Why goals were missed:", "\n".join(f"- {each.goal}: {each.cause}" for each in missed)]
    return "\n\n".join(parts)


def promises(results: Results) -> Iterator[Promise]:
    """The goals that this run's variants and data can be held to."""
    base = results.variant("base")
    judges_errors = results.params.data.name == "cifar100"
    if judges_errors:
        yield _error(base, BASE_ERROR_PCT, base_error_cause(results))
    for variant in results.variants:
        if judges_errors:
            yield from _error_promises(results, variant)
        if results.params.model.width == 1:
            yield from _cost_promises(results, variant)


def _error_promises(results: Results, variant: Variant) -> Iterator[Promise]:
    prune, base, parent = results.params.prune, results.variant("base"), results.variant(variant.model)
    if variant.name == "structured" and _near_the_goal(gone := _channels_gone(results)):
        goal = f"`structured`, with {percent(gone)} of the channels gone: error no worse than `base`"
        yield _loss(variant, base, 0.0, goal, pruning_cause(results, variant))
    if variant.name == "unstructured" and prune.sparsity == GOAL_SPARSITY:
        goal = f"`unstructured`, with {percent(prune.sparsity)} zeros: error within {MAX_SPARSE_LOSS} points of `base`"
        yield _loss(variant, base, MAX_SPARSE_LOSS, goal, pruning_cause(results, variant))
    if variant.precision == "int8":
        goal = f"`{variant.name}`: error within {MAX_INT8_LOSS} points of `{parent.name}`"
        yield _loss(variant, parent, MAX_INT8_LOSS, goal, int8_cause(results, variant))
    if variant.name == FLAGSHIP:
        yield _error(variant, ORIGINAL_ERROR_PCT, flagship_cause(results, variant), "that of the original's base")


def _cost_promises(results: Results, variant: Variant) -> Iterator[Promise]:
    base, parent = results.variant("base"), results.variant(variant.model)
    if variant.name == "unstructured" and results.params.prune.sparsity == GOAL_SPARSITY:
        yield _size(variant, base, MIN_SPARSE_SHRINKAGE, sparse_size_cause(results, variant))
    if variant.precision == "int8":
        if variant.model in MIN_INT8_SHRINKAGE:
            yield _size(variant, parent, MIN_INT8_SHRINKAGE[variant.model], int8_size_cause(variant))
        yield Promise(
            f"`{variant.name}`: at least {MIN_INT8_SPEED_UP} times as fast as `{parent.name}`, in ONNX Runtime",
            " times",
            times(speed_up(variant, parent)),
            MIN_INT8_SPEED_UP,
            at_least=True,
            noise=SAME_LATENCY * MIN_INT8_SPEED_UP,
            cause=speed_cause(results, variant, parent),
        )
    if variant.name == FLAGSHIP:
        yield Promise(
            f"`{variant.name}`: a file of at most {FLAGSHIP_MEGABYTES:g} MB",
            " MB",
            math.ceil(variant.cost.file_bytes / 1e4) / 100,  # never rounded down to a goal that is missed
            FLAGSHIP_MEGABYTES,
            at_least=False,
            noise=0.0,
            cause=int8_size_cause(variant),
        )
        yield Promise(
            f"`{variant.name}`: at least {FLAGSHIP_SPEED_UP:g} times as fast as `base` in PyTorch, as the original "
            "ran it",
            " times",
            times(float(np.median(speed_ups(variant.cost, results.profile.eager["base"])))),
            FLAGSHIP_SPEED_UP,
            at_least=True,
            noise=SAME_LATENCY * FLAGSHIP_SPEED_UP,
            cause=eager_cause(results, variant),
        )


def _error(variant: Variant, limit: float, cause: str, source: str = "") -> Promise:
    goal = f"`{variant.name}`: at most {limit:g} % error" + (f", {source}" if source else "")
    error = round(variant.accuracy.top1_error_pct, 2)
    noise = 2 * standard_error_pct(variant.accuracy)
    return Promise(goal, " %", error, limit, at_least=False, noise=noise, cause=cause)


def _loss(variant: Variant, reference: Variant, limit: float, goal: str, cause: str) -> Promise:
    noise = noise_of_change(variant.accuracy, reference.accuracy)
    change = error_change(variant, reference)
    return Promise(goal, " points", change, limit, at_least=False, noise=noise, cause=cause)


def _size(variant: Variant, reference: Variant, limit: float, cause: str) -> Promise:
    goal = f"`{variant.name}`: file at least {limit:g} times smaller than that of `{reference.name}`"
    measured = times(shrinkage(variant, reference))
    return Promise(goal, " times", measured, limit, at_least=True, noise=0.0, cause=cause)


def _channels_gone(results: Results) -> float:
    """Share of the channels that structured pruning removed, which rounding can keep from `prune.ratio`."""
    shape = results.compression["structured"]
    return 1 - sum(shape.widths) / sum(shape.base_widths)


def _near_the_goal(channels_gone: float) -> bool:
    """Whether as many channels are gone as the goal for `structured` is for, or a hundredth of all of them more."""
    return GOAL_RATIO <= round(channels_gone, 2) <= GOAL_RATIO + ROUNDING


def _left_out(results: Results) -> list[str]:
    """Which goals the table lacks because the run's settings aren't those of the goals."""
    prune, notes = results.params.prune, []
    if results.params.data.name != "cifar100":
        notes.append("The goals for errors are for CIFAR-100, so they are left out here.")
    if (width := results.params.model.width) != 1:
        notes.append(f"The goals for size and speed are for `model.width: 1`; this run had {width:g}.")
    if "structured" in results.models and not _near_the_goal(gone := _channels_gone(results)):
        notes.append(
            f"The goal for `structured` is for about {percent(GOAL_RATIO)} of the channels gone; of this run's, "
            f"{percent(gone)} are."
        )
    if "unstructured" in results.models and prune.sparsity != GOAL_SPARSITY:
        notes.append(
            f"The goals for `unstructured` are for `prune.sparsity: {GOAL_SPARSITY}`; this run had {prune.sparsity:g}."
        )
    return [" ".join(notes)] if notes else []
