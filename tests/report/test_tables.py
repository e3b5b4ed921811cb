"""The rows of the report's tables."""

import pytest

from stages.lib.artifacts import evaluation_path, profile_path
from stages.lib.models import MODELS, PRECISIONS
from stages.lib.report.tables import metrics, model_rows, original_rows, recommended, variant_rows
from tests.report.run import ERRORS_PCT, Run, accuracy, latencies


def shipped(run: Run) -> dict[str, str]:
    return {wish: row.name for wish, row in recommended(variant_rows(run.results())).items()}


def test_there_is_a_row_for_every_model_and_precision(run: Run) -> None:
    rows = variant_rows(run.results())
    assert [(row.model.name, row.precision) for row in rows] == [(name, each) for name in MODELS for each in PRECISIONS]
    assert [row.name for row in rows if row.change is None] == ["base"]
    assert [row.accuracy.top1_error_pct for row in rows[::2]] == list(ERRORS_PCT.values())


def test_variants_are_compared_with_base(run: Run) -> None:
    row = {row.name: row for row in variant_rows(run.results())}["distilled-int8"]
    assert row.change and (row.change.points, row.is_as_accurate) == (7.2, False)
    assert (row.times_smaller, row.times_as_fast.median) == (32.0, 12.0)


def test_the_smallest_and_fastest_that_lose_no_accuracy_are_recommended(run: Run) -> None:
    assert shipped(run) == {
        "smallest_accurate": "unstructured-int8",
        "fastest_accurate": "lowrank-int8",
        "most_accurate": "base",
        "smallest": "distilled-int8",
        "fastest": "distilled-int8",
    }


def test_a_small_difference_in_size_or_latency_does_not_outweigh_accuracy(run: Run) -> None:
    run.change_cost("distilled", file_bytes=807_000, **latencies("cpu", 0.52))
    assert {shipped(run)["smallest"], shipped(run)["fastest"]} == {"distilled"}
    run.change_cost("distilled", file_bytes=809_000, **latencies("cpu", 0.53))
    assert {shipped(run)["smallest"], shipped(run)["fastest"]} == {"distilled-int8"}


def test_base_is_recommended_where_nothing_else_is_as_accurate(run: Run) -> None:
    run.change(evaluation_path("base", "fp32"), **accuracy(range(10)))
    assert set(list(shipped(run).values())[:3]) == {"base"}


def test_a_model_s_row_says_how_it_was_made(run: Run) -> None:
    rows = {row.model.name: row for row in model_rows(run.results())}
    assert list(rows) == list(MODELS)
    assert (rows["structured"].channels, rows["distilled"].channels) == ((192, 256), None)
    assert rows["structured"].parameters_left == 0.625
    assert rows["structured"].macs_left == pytest.approx(34 / 53)
    assert rows["unstructured"].zeros == pytest.approx(0.8)
    assert {name: row.num_factorized for name, row in rows.items() if row.num_factorized} == {"lowrank": 2}
    assert (rows["base"].start_error_pct, rows["lowrank"].start_error_pct) == (None, 85.1)
    seeds = {"train": 0, "finetune": 1, "distill": 2, "squeeze": 3}
    assert {name: row.recipe.seed for name, row in rows.items()} == {
        name: seeds[model.recipe] for name, model in MODELS.items()
    }


def test_the_original_stands_beside_ours_in_pytorch(run: Run) -> None:
    run.change(profile_path(), "eager", "base", latency_cuda_ms=1.5)
    rows = original_rows(run.results(), {"base": {"latency_ms": 15.74}, "lowrank": {}})
    assert rows["latency_ms"] == [(15.74, 18.0), (None, 9.0)]
    assert rows["latency_cuda_ms"] == [(None, 1.5), (None, None)]
    assert rows["checkpoint_mb"] == [(None, 25.6), (None, 18.4)]


def test_metrics_have_the_same_keys_for_every_variant_and_no_digits_of_noise(run: Run) -> None:
    run.change_cost("base", latency_cpu_ms=6.1234)
    values = metrics(variant_rows(run.results()))
    assert list(values) == [name + suffix for name in MODELS for suffix in ("", "-int8")]
    assert len({tuple(each) for each in values.values()}) == 1
    assert values["base"] == {
        "top1_error_pct": 22.9,
        "top5_error_pct": 6.13,
        "num_parameters": 6_400_000,
        "num_nonzero_parameters": 6_400_000,
        "macs": 530_000_000,
        "file_bytes": 25_600_000,
        "latency_cpu_ms": 6.1,
        "memory_mb": 38.0,
    }
