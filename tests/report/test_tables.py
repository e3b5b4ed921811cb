"""The rows of the report's tables."""

from pathlib import Path

import pytest

from stages.lib.artifacts import evaluation_path
from stages.lib.models import MODELS, PRECISIONS
from stages.lib.report import tables
from stages.lib.report.tables import metrics, model_rows, original_rows, recommended, tradeoffs, variant_rows
from tests.report.run import CLASSES, ERRORS_PCT, Run, accuracy, latencies


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
    results = run.results()
    rows = {row.model.name: row for row in model_rows(results)}
    assert list(rows) == list(MODELS)
    assert (rows["structured"].channels, rows["distilled"].channels) == ((192, 256), None)
    assert rows["structured"].parameters_left == 0.625
    assert rows["structured"].macs_left == pytest.approx(34 / 53)
    assert rows["unstructured"].zeros == pytest.approx(0.8)
    assert {name: row.num_factorized for name, row in rows.items() if row.num_factorized} == {"lowrank": 2}
    assert (rows["base"].start_error_pct, rows["lowrank"].start_error_pct) == (None, 85.1)
    assert {name: row.recipe for name, row in rows.items()} == {
        name: getattr(results.params, model.recipe) for name, model in MODELS.items()
    }


def test_the_original_stands_beside_ours_in_pytorch(run: Run) -> None:
    run.add_gpu()
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
        "calibration_error_pct": 3.21,
        "num_parameters": 6_400_000,
        "num_nonzero_parameters": 6_400_000,
        "macs": 530_000_000,
        "file_bytes": 25_600_000,
    }
    speeds = tables.latencies(variant_rows(run.results()))
    assert list(speeds) == list(values)
    assert speeds["base"] == {
        "latency_cpu_ms": 6.1,
        "images_per_s_1_thread": 510.0,
        "images_per_s": 990.0,
        "memory_mb": 38.0,
    }


def test_the_tradeoffs_are_a_table_for_dvc_plots(run: Run) -> None:
    header, first, *_ = tradeoffs(variant_rows(run.results())).splitlines()
    assert header == "variant,top1_error_pct,noise_pct,file_mb,macs_m,latency_cpu_ms"
    assert first == "base,22.9,2.66,25.6,530.0,6.0"


def test_each_variant_has_its_noise_its_p_value_and_the_classes_that_changed_most(run: Run) -> None:
    run.change(evaluation_path("lowrank", "fp32"), **accuracy(range(229), range(300, 1000, 100)))
    rows = {row.name: row for row in variant_rows(run.results())}
    assert rows["base"].p_value is None and rows["base"].gained == rows["base"].lost == []
    assert rows["lowrank"].p_value == pytest.approx(2**-6)  # 7 images that base gets right, none the other way
    assert [(change.name, change.points) for change in rows["lowrank"].lost] == [(CLASSES[0], 70.0)]
    assert rows["lowrank"].gained == []
    assert rows["base"].superclass_error_pct == pytest.approx(4.5)  # the last class of five is taken for the next


def test_other_classes_have_no_superclasses(run: Run) -> None:
    for path in Path("artifacts/evaluation").glob("*-*.json"):
        run.change(path, classes=[f"class {i}" for i in range(100)])
    assert {row.superclass_error_pct for row in variant_rows(run.results())} == {None}


def test_numbers_from_other_machines_count_for_the_same_files_alone(run: Run) -> None:
    run.add_machine("Pi 5", base_int8=12.5, lowrank=20.0)
    assert run.results().machines == {"Pi 5": {"base-int8": 12.5, "lowrank": 20.0}}
    run.change(evaluation_path("lowrank", "fp32"), file_sha256="cd34")
    assert run.results().machines == {"Pi 5": {"base-int8": 12.5}}
    run.add_gpu()
    assert list(run.results().cuda) == ["base"]
    run.add_gpu(checkpoint_sha256="another")
    assert run.results().cuda == {}
