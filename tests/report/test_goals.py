"""Goals beside what was measured."""

from fnmatch import fnmatchcase

import pytest

from stages.lib.artifacts import evaluation_path
from stages.lib.models import MODELS, PRECISIONS
from stages.lib.report import goals
from stages.lib.report.goals import FLAGSHIP, GOALS, PARENTS, Goal, Verdict, left_out, verdicts
from tests.report.run import Run, accuracy, latencies


def judged(run: Run, variant: str, measure: str) -> Verdict:
    """The first verdict on a variant by a measure."""
    return next(each for each in verdicts(run.results()) if (each.variant, each.goal.measure) == (variant, measure))


def test_every_goal_names_a_variant_that_there_is() -> None:
    for goal in GOALS:
        assert goal.variants == FLAGSHIP or any(fnmatchcase(name, goal.variants) for name in PARENTS)


def test_an_int8_model_is_compared_with_its_own_fp32_model() -> None:
    assert PARENTS["lowrank-int8"] == "lowrank"
    assert PARENTS["lowrank"] == PARENTS["base-int8"] == PARENTS["base"] == "base"
    assert len(PARENTS) == len(MODELS) * len(PRECISIONS)


def test_a_goal_is_met_or_missed_by_so_much(run: Run) -> None:
    base, structured = judged(run, "base", "error_pct"), judged(run, "structured", "added_error")
    assert (base.measured, base.missed_by, base.is_met) == (22.9, -0.06, True)
    assert (structured.measured, structured.missed_by, structured.is_met) == (0.6, 0.5, False)
    stretch = next(each for each in verdicts(run.results()) if each.goal.is_stretch)
    assert (stretch.missed_by, stretch.is_met, stretch.is_within_noise) == (3.4, False, False)


def test_a_verdict_that_other_test_images_could_turn_is_within_noise(run: Run) -> None:
    assert judged(run, "base", "error_pct").is_within_noise
    run.change(evaluation_path("base", "fp32"), **accuracy(range(150)))
    assert not judged(run, "base", "error_pct").is_within_noise


@pytest.mark.parametrize(
    ("latency_ms", "is_met", "is_within_noise"),
    [(3.0, True, False), (3.4, True, True), (3.7, False, True), (4.0, False, False)],
)
def test_a_speedup_may_wander_by_five_percent(run: Run, latency_ms: float, is_met: bool, is_within_noise: bool) -> None:
    run.change_cost("base-int8", **latencies("cpu", latency_ms))
    verdict = judged(run, "base-int8", "times_as_fast")
    assert (verdict.is_met, verdict.is_within_noise) == (is_met, is_within_noise)


def test_a_number_just_short_of_a_goal_never_looks_as_if_it_met_it(run: Run) -> None:
    run.change_cost("base-int8", file_bytes=6_736_843)  # 25.6 MB are 3.7999999 times as much
    smaller = judged(run, "base-int8", "times_smaller")
    assert (smaller.measured, smaller.missed_by, smaller.is_met, smaller.is_within_noise) == (3.79, 0.01, False, False)
    run.change_cost("distilled-int8", file_bytes=1_000_001)
    size = judged(run, "distilled-int8", "file_mb")
    assert (size.measured, size.missed_by, size.is_met) == (1.01, 0.01, False)
    run.change_cost("distilled-int8", file_bytes=1_000_000)
    size = judged(run, "distilled-int8", "file_mb")
    assert (size.measured, size.missed_by, size.is_met, size.is_within_noise) == (1.0, 0.0, True, False)


def test_the_flagship_comes_nearest_to_all_of_its_goals(run: Run) -> None:
    def flagship() -> tuple[set[str], int]:
        made = [each for each in verdicts(run.results()) if each.goal.variants == FLAGSHIP]
        assert len(made) == 3
        return {each.variant for each in made}, sum(each.is_met for each in made)

    assert flagship() == ({"distilled-int8"}, 2)
    run.change_cost("lowrank-int8", file_bytes=990_000)  # with 23.1 % it misses 22.96 % by less than 30.1 % do
    assert flagship() == ({"lowrank-int8"}, 2)
    for name, num_missed in (("base", 225), ("structured", 220)):
        run.change_cost(f"{name}-int8", file_bytes=990_000, **latencies("cpu", 1.0))
        run.change(evaluation_path(name, "int8"), **accuracy(range(num_missed)))
    assert flagship() == ({"structured-int8"}, 3)  # of two that meet them all, the one with the lower error


def test_goals_for_other_data_are_left_out(run: Run) -> None:
    assert left_out(run.results().params) == []
    run.set(data__name="digits")
    assert left_out(run.results().params) == [("data.name", "=", "cifar100", "digits")]
    assert {each.goal.measure for each in verdicts(run.results())} == {"times_smaller", "times_as_fast"}


def test_goals_for_other_settings_are_left_out(run: Run) -> None:
    run.set(data__limit_per_class=100, model__width=0.5, prune__ratio=0.1, prune__sparsity=0.5)
    assert verdicts(run.results()) == []
    assert {(path, here) for path, _, _, here in left_out(run.results().params)} == {
        ("data.limit_per_class", 100),
        ("model.width", 0.5),
        ("prune.ratio", 0.1),
        ("prune.sparsity", 0.5),
    }


def test_a_new_goal_needs_a_line_and_nothing_else(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goals, "GOALS", (Goal("lowrank*", "file_mb", 10.0, settings=()),))
    assert [(each.variant, each.is_met) for each in verdicts(run.results())] == [
        ("lowrank", False),
        ("lowrank-int8", True),
    ]
    assert "| `lowrank` | file size | – | ≤ 10 MB | 18.40 MB | **missed** by 8.40 MB |" in run.render()
