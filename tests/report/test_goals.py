"""Goals are judged by numbers, where the run is one that they are set for."""

from typing import Any

import pytest
from made_up_run import LATENCIES, Run

from stages.lib.report.goals import FLAGSHIP, Verdict, left_out, verdicts


def verdict(run: Run, variant: str, measure: str, *, limit: float | None = None) -> Verdict:
    return next(
        each
        for each in verdicts(run.results())
        if each.variant == variant and each.goal.measure == measure and limit in (None, each.goal.limit)
    )


def flagship(run: Run) -> list[Verdict]:
    return [each for each in verdicts(run.results()) if each.goal.variants == FLAGSHIP]


@pytest.mark.parametrize(
    ("variant", "measure", "limit", "met", "missed", "missed_by"),
    [
        ("base", "error_pct", 22.96, 22.96, 22.97, 0.01),
        ("base", "error_pct", 19.5, 19.5, 25.0, 5.5),
        ("structured", "added_error", 0.1, 23.01, 23.02, 0.01),
        ("unstructured", "added_error", 0.5, 23.41, 26.41, 3.0),
        ("base-int8", "added_error", 0.2, 23.11, 23.12, 0.01),
        ("lowrank-int8", "added_error", 0.2, 23.6, 30.0, 6.4),
    ],
)
def test_a_goal_for_an_error_is_met_or_missed(
    run: Run, variant: str, measure: str, limit: float, met: float, missed: float, missed_by: float
) -> None:
    run.set_error(variant, met)
    assert verdict(run, variant, measure, limit=limit).is_met
    run.set_error(variant, missed)
    judged = verdict(run, variant, measure, limit=limit)
    assert not judged.is_met
    assert judged.missed_by == missed_by


@pytest.mark.parametrize(
    ("variant", "measure", "met", "missed"),
    [
        ("unstructured", "times_smaller", {"file_bytes": 6_400_000}, {"file_bytes": 6_500_000}),
        ("base-int8", "times_smaller", {"file_bytes": 6_700_000}, {"file_bytes": 6_800_000}),
        ("structured-int8", "times_smaller", {"file_bytes": 4_400_000}, {"file_bytes": 4_500_000}),
        ("base-int8", "times_as_fast", {"latency_cpu_ms": 6.6 / 1.7}, {"latency_cpu_ms": 6.6 / 1.6999}),
        ("structured-int8", "times_as_fast", {"latency_cpu_ms": 2.9}, {"latency_cpu_ms": 3.0}),
    ],
)
def test_a_goal_for_size_or_speed_is_met_or_missed(
    run: Run, variant: str, measure: str, met: dict[str, Any], missed: dict[str, Any]
) -> None:
    run.change_cost(variant, **met)
    assert verdict(run, variant, measure).is_met
    run.change_cost(variant, **missed)
    assert not verdict(run, variant, measure).is_met


@pytest.mark.parametrize(("error", "is_met", "is_noise"), [(20.3, 0, 1), (20.4, 0, 0), (18.8, 1, 1), (18.6, 1, 0)])
def test_an_error_is_within_noise_up_to_two_standard_errors(
    run: Run, error: float, is_met: bool, is_noise: bool
) -> None:
    run.set_error("base", error)  # one standard error is 0.40 points
    judged = verdict(run, "base", "error_pct", limit=19.5)
    assert (judged.is_met, judged.is_within_noise) == (is_met, is_noise)


@pytest.mark.parametrize(("speedup", "is_noise"), [(1.63, True), (1.6, False), (1.75, True), (1.8, False)])
def test_a_speedup_is_within_noise_up_to_five_percent(run: Run, speedup: float, is_noise: bool) -> None:
    run.change_cost("base-int8", latency_cpu_ms=LATENCIES["base"] / speedup)
    assert verdict(run, "base-int8", "times_as_fast").is_within_noise is is_noise


def test_a_size_has_no_noise(run: Run) -> None:
    assert not verdict(run, "base-int8", "times_smaller").is_within_noise


def test_int8_is_compared_with_the_model_that_it_was_made_from(run: Run) -> None:
    judged = verdict(run, "structured-int8", "times_as_fast")
    assert (judged.parent, judged.measured) == ("structured", 2.0)
    assert verdict(run, "structured", "added_error").parent == "base"


def test_the_flagship_is_the_variant_nearest_to_its_three_goals(run: Run) -> None:
    assert {each.variant for each in flagship(run)} == {"distilled-int8"}
    assert [each.is_met for each in flagship(run)] == [False, True, True]
    run.set_error("unstructured-int8", 22.9)
    run.change_cost("unstructured-int8", file_bytes=1_000_000, latency_cpu_ms=1.9)
    assert {(each.variant, each.is_met) for each in flagship(run)} == {("unstructured-int8", True)}
    run.set_error("distilled-int8", 22.0)  # both meet all three: the more accurate one
    assert {each.variant for each in flagship(run)} == {"distilled-int8"}


def test_a_file_a_byte_too_large_misses_its_goal(run: Run) -> None:
    run.change_cost("distilled-int8", file_bytes=1_000_001)
    assert [each.missed_by for each in flagship(run) if each.goal.measure == "file_mb"] == [0.01]


@pytest.mark.parametrize(
    ("section", "values", "gone", "left"),
    [
        ("data", {"name": "digits"}, {"error_pct", "added_error", "file_mb"}, {"times_smaller", "times_as_fast"}),
        ("data", {"limit_per_class": 100}, {"error_pct", "added_error", "file_mb"}, {"times_smaller"}),
        ("model", {"width": 0.25}, {"times_smaller", "times_as_fast", "file_mb"}, {"error_pct", "added_error"}),
    ],
)
def test_goals_that_are_not_set_for_such_a_run_are_left_out(
    run: Run, section: str, values: dict[str, Any], gone: set[str], left: set[str]
) -> None:
    assert left_out(run.results().params) == []
    run.set(section, **values)
    measures = {each.goal.measure for each in verdicts(run.results())}
    assert not gone & measures
    assert left <= measures
    [(path, _, _, here)] = left_out(run.results().params)
    assert (path, here) == (f"{section}.{next(iter(values))}", next(iter(values.values())))


def test_goals_of_pruning_are_for_as_much_pruning_or_more(run: Run) -> None:
    run.set("prune", sparsity=0.85)
    assert verdict(run, "unstructured", "added_error")
    run.set("prune", sparsity=0.7, ratio=0.1)
    assert not {"structured", "unstructured"} & {each.variant for each in verdicts(run.results())}
    assert [path for path, *_ in left_out(run.results().params)] == ["prune.ratio", "prune.sparsity"]
