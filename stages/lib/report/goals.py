"""What this project set out to reach, beside what the run measured."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.report.formatting import times
from stages.lib.report.results import Results
from stages.lib.report.statistics import SAME_LATENCY, paired_difference, speed_up, standard_error_pct
from stages.lib.schema import Params

Measure = Literal["error_pct", "added_error", "file_mb", "times_smaller", "times_as_fast", "times_as_fast_as_eager"]
Setting = tuple[str, str, Any]  # a parameter, a relation, and the value that goals are set for

TO_BE_LARGE = ("times_smaller", "times_as_fast", "times_as_fast_as_eager")
RELATIONS: dict[str, Callable[[Any, Any], bool]] = {"=": operator.eq, "≥": operator.ge}
CIFAR_100: tuple[Setting, ...] = (("data.name", "=", "cifar100"), ("data.limit_per_class", "=", None))
FULL_WIDTH: tuple[Setting, ...] = (("model.width", "=", 1.0),)
STRUCTURED: tuple[Setting, ...] = (("prune.ratio", "≥", 0.2),)
UNSTRUCTURED: tuple[Setting, ...] = (("prune.sparsity", "≥", 0.8),)
FLAGSHIP = "flagship"
PARENTS = {  # what each variant was made from
    variant_name(model, precision): "base" if precision == "fp32" else model
    for model in MODELS
    for precision in PRECISIONS
}


@dataclass(frozen=True)
class Goal:
    """A limit on one measure.

    Attributes:
        variants: Names or a pattern of them; `flagship` is the variant that comes nearest to all goals named so.
        limit: The most that is allowed or, of a measure in `TO_BE_LARGE`, the least.
        settings: Of the runs that it is set for.
        is_stretch: Whether it goes beyond what the original reached.
    """

    variants: str
    measure: Measure
    limit: float
    settings: tuple[Setting, ...]
    is_stretch: bool = False


GOALS = (
    Goal("base", "error_pct", 22.96, CIFAR_100),
    Goal("base", "error_pct", 19.5, CIFAR_100, is_stretch=True),
    Goal("structured", "added_error", 0.1, CIFAR_100 + STRUCTURED),
    Goal("unstructured", "added_error", 0.5, CIFAR_100 + UNSTRUCTURED),
    Goal("*-int8", "added_error", 0.2, CIFAR_100),
    Goal("unstructured", "times_smaller", 4.0, FULL_WIDTH + UNSTRUCTURED),
    Goal("base-int8", "times_smaller", 3.8, FULL_WIDTH),
    Goal("structured-int8", "times_smaller", 3.7, FULL_WIDTH),
    Goal("*-int8", "times_as_fast", 1.7, FULL_WIDTH),
    Goal(FLAGSHIP, "error_pct", 22.96, CIFAR_100 + FULL_WIDTH),
    Goal(FLAGSHIP, "file_mb", 1.0, CIFAR_100 + FULL_WIDTH),
    Goal(FLAGSHIP, "times_as_fast_as_eager", 10.0, CIFAR_100 + FULL_WIDTH),
)


@dataclass(frozen=True)
class Verdict:
    """A goal beside what was measured.

    Attributes:
        parent: What the variant was made from.
        measured: Rounded as it is shown, so that number and verdict never disagree.
        noise: Two standard errors of an error, a share of a ratio of latencies.
        missed_by: How far the number is from the goal, 0 or less where it is met.
    """

    goal: Goal
    variant: str
    parent: str
    measured: float
    noise: float
    missed_by: float

    @property
    def is_met(self) -> bool:
        """Whether the number reaches the goal."""
        return self.missed_by <= 0

    @property
    def is_within_noise(self) -> bool:
        """Whether other test images or another profile could turn the verdict."""
        return self.noise > 0 and abs(self.missed_by) <= self.noise

    @property
    def shortfall(self) -> float:
        """How far off a missed goal is, on a scale that compares measures: the logarithm of the ratio."""
        return 0.0 if self.is_met else abs(math.log(max(self.measured, 0.01) / self.goal.limit))


def verdicts(results: Results) -> list[Verdict]:
    """A verdict on each goal that is set for such a run, for each variant that it names; those of the flagship last."""
    goals = [goal for goal in GOALS if not _unmet(goal, results.params)]
    made = [_judge(goal, name, results) for goal in goals for name in PARENTS if fnmatchcase(name, goal.variants)]
    together = [[_judge(goal, name, results) for goal in goals if goal.variants == FLAGSHIP] for name in PARENTS]
    return made + min(together, key=lambda each: (sum(one.shortfall for one in each), [one.measured for one in each]))


def left_out(params: Params) -> list[tuple[str, str, Any, Any]]:
    """What keeps goals from being judged: a setting that they are made for, and the value of this run."""
    unmet = dict.fromkeys(setting for goal in GOALS for setting in _unmet(goal, params))
    return [(*setting, operator.attrgetter(setting[0])(params)) for setting in unmet]


def _judge(goal: Goal, variant: str, results: Results) -> Verdict:
    measured, noise = _measure(goal.measure, variant, PARENTS[variant], results)
    missed_by = goal.limit - measured if goal.measure in TO_BE_LARGE else measured - goal.limit
    return Verdict(goal, variant, PARENTS[variant], measured, noise, round(missed_by, 2))


def _measure(measure: Measure, variant: str, parent: str, results: Results) -> tuple[float, float]:
    """The number, rounded as it is shown, and its noise."""
    accuracy, costs = results.accuracy, results.profile.variants
    match measure:
        case "error_pct":
            return round(accuracy[variant].top1_error_pct, 2), 2 * standard_error_pct(accuracy[variant])
        case "added_error":
            change = paired_difference(accuracy[variant], accuracy[parent])
            return change.points, change.noise
        case "file_mb":
            return math.ceil(costs[variant].file_bytes / 1e4) / 100, 0.0
        case "times_smaller":
            return times(costs[parent].file_bytes / costs[variant].file_bytes), 0.0
        case "times_as_fast" | "times_as_fast_as_eager":
            reference = costs[parent] if measure == "times_as_fast" else results.profile.eager["base"]
            ratio = times(speed_up(costs[variant], reference).median)
            return ratio, SAME_LATENCY * ratio


def _unmet(goal: Goal, params: Params) -> list[Setting]:
    return [
        (path, relation, value)
        for path, relation, value in goal.settings
        if not RELATIONS[relation](operator.attrgetter(path)(params), value)
    ]
