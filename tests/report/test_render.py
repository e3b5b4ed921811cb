"""The report's structure: which tables it has, for which run, and that each number stands in its cell."""

import re
from typing import Any

import pytest
from made_up_run import MACHINE, Run

from stages.lib.artifacts import compression_path, evaluation_path, profile_path, training_path
from stages.lib.models import MODELS, PRECISIONS, Model, variant_name
from stages.lib.report.figures import draw_curves, draw_tradeoffs
from stages.lib.report.render import findings_line
from stages.lib.report.tables import recommended, variant_rows

VARIANTS = [variant_name(model, precision) for model in MODELS for precision in PRECISIONS]


def table(text: str, heading: str) -> list[dict[str, str]]:
    """The first table under a heading: each row by its headers."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    header, rule, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert all(re.fullmatch(":--|--:", cell) for cell in rule)
    return [dict(zip(header, row, strict=True)) for row in rows]


def row(text: str, heading: str, name: str) -> dict[str, str]:
    return next(row for row in table(text, heading) if f"`{name}`" in row.values())


def test_every_variant_has_its_numbers_in_their_columns(run: Run) -> None:
    run.change_cost("base-int8", num_parameters=700, num_nonzero_parameters=600, macs=55_500_000, file_bytes=6_000_000)
    run.change_cost("base-int8", latency_cpu_ms=3.21, latency_cpu_p5_ms=3.11, latency_cpu_p95_ms=3.51, memory_mb=44.4)
    text = run.render()
    assert [row["Variant"] for row in table(text, "All variants")] == [f"`{name}`" for name in VARIANTS]
    assert row(text, "All variants", "base-int8") == {
        "Variant": "`base-int8`",
        "Top-1 error, %": "23.01",
        "Change": "**+0.10 ± 0.07**",
        "Top-5 error, %": "6.12",
        "Parameters": "700",
        "Nonzero": "600",
        "MACs, M": "55.5",
        "File, MB": "6.00",
        "Smaller": "4.28×",
        "Latency, ms": "3.2 (3.1\N{EN DASH}3.5)",
        "Faster": "2.05×",
        "Memory, MB": "44",
    }


def test_every_model_has_its_making_and_its_training(run: Run) -> None:
    run.set("finetune", image_sizes={24: 1.0, 32: 3.0}, muon_lr=None)
    run.change(training_path("structured"), seconds=7200, precision="bf16")
    text = run.render()
    names = [f"`{model}`" for model in MODELS]
    assert [row["Model"] for row in table(text, "How each model was made")] == names
    assert [row["Model"] for row in table(text, "What was run")] == names
    made = row(text, "How each model was made", "structured")
    assert [made[key] for key in ("Parameters", "Before, %", "Epochs", "fp32, %", "int8, %")] == [
        *("63.9 %", "85.13", "4", "22.80", "23.10")
    ]
    assert list(row(text, "What was run", "structured").values())[1:] == [
        *("4", "128", "24 (25 %), 32 (75 %)", "SGD", "`base`, `standardized_kd`", "2.0 h", "CPU, 2 threads, bf16")
    ]


def test_what_to_ship_depends_on_accuracy_beyond_noise(run: Run) -> None:
    names = {wish: row.name for wish, row in recommended(variant_rows(run.results())).items()}
    assert names == {
        "smallest_accurate": "base",
        "fastest_accurate": "base",
        "most_accurate": "base",
        "smallest": "distilled-int8",
        "fastest": "distilled-int8",
    }
    run.set_error("unstructured-int8", 22.9)
    run.set_error("lowrank-int8", 22.95, first_missed=500)
    rows = recommended(variant_rows(run.results()))
    assert (rows["smallest_accurate"].name, rows["fastest_accurate"].name) == ("unstructured-int8", "lowrank-int8")


def test_of_two_files_as_small_the_more_accurate_one_is_recommended(run: Run) -> None:
    run.change_cost("distilled-int8", file_bytes=1_000_000)
    run.change_cost("distilled", file_bytes=1_005_000)
    assert recommended(variant_rows(run.results()))["smallest"].name == "distilled"


def test_a_goal_has_a_row_with_its_verdict(run: Run) -> None:
    run.set_error("base", 25.0)
    first, *_ = table(run.render(), "Goals")
    assert first["Variant"] == "`base`"
    assert first["Verdict"] == "**missed** by 2.04 points"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"data": {"name": "digits"}, "model": {"width": 0.25}},
        {"data": {"name": "folder", "folder": "../photos"}, "train": {"muon_lr": None}},
        {"data": {"limit_per_class": 50}, "prune": {"sparsity": 0.5, "start_sparsity": 0.2, "round_to": None}},
        {"distill": {"start": "scratch"}, "prune": {"importance": "taylor", "scope": "global"}},
        {"prune": {"sparsity_scope": "layer", "reconstruction_images": 0}, "quantize": {"reduce_range": False}},
    ],
    ids=str,
)
def test_any_run_makes_a_whole_report(run: Run, settings: dict[str, dict[str, Any]]) -> None:
    for section, values in settings.items():
        run.set(section, **values)
    text = run.render()
    assert not re.search(r"\b(nan|NaN|None|inf|Undefined)\b|\n\n\n|[{}]|\\`| \n", text)
    assert ("## Beside the original report" in text) == (settings.get("data", {}).get("name") is None)
    assert table(text, "All variants") and table(text, "How each model was made") and table(text, "What was run")


def test_without_a_top5_error_there_is_no_column_for_it(run: Run) -> None:
    for name in VARIANTS:
        model, _, int8 = name.partition("-")
        run.change(evaluation_path(model, int8 or "fp32"), top5_error_pct=0.0)
    assert "Top-5 error, %" not in table(run.render(), "All variants")[0]


@pytest.mark.parametrize(("cuda", "cell"), [(None, "\N{EN DASH}"), (7.91, "7.9 ms")])
def test_what_a_gpu_measures_is_a_dash_without_one(run: Run, cuda: float | None, cell: str) -> None:
    run.change_cost("base", engine="eager", latency_cuda_ms=cuda, profiler_cuda_ms=cuda)
    rows = table(run.render(), "Beside the original report")
    profiler = rows[-1]
    assert (profiler["`base`, original"], profiler["`base`, ours"]) == ("12.64 ms", cell)
    assert len(rows) == (8 if cuda is None else 9)


def test_the_originals_numbers_are_those_of_its_table(run: Run) -> None:
    originals = [list(row.values())[1::2] for row in table(run.render(), "Beside the original report")]
    assert originals == [
        ["6.4 M", "6.4 M", "4.09 M"],
        ["25 MB", "25 MB", "16 MB"],
        ["22.96 %", "27.5 %", "25.85 %"],
        ["6.19 %", "6.61 %", "6.91 %"],
        ["58.66 MB", "58.66 MB", "46.98 MB"],
        ["15.74 ms", "15.6 ms", "16.7 ms"],
        ["27.395 ms", "26.788 ms", "31.761 ms"],
        ["12.64 ms", "12.64 ms", "10.79 ms"],
    ]


@pytest.mark.parametrize(("epochs", "limit", "warns"), [(120, None, False), (99, None, True), (120, 50, True)])
def test_a_small_budget_is_said_up_front(run: Run, epochs: int, limit: int | None, warns: bool) -> None:
    run.write_curve("base", num_epochs=epochs)
    run.set("data", limit_per_class=limit)
    assert ("Small budget" in run.render().split("## ")[0]) is warns


@pytest.mark.parametrize(("slow", "warns"), [(2.9, False), (3.1, True)])
def test_a_busy_machine_is_said_up_front(run: Run, slow: float, warns: bool) -> None:
    run.change_cost("base", latency_cpu_p5_ms=5.0, latency_cpu_p95_ms=5.0 * slow)
    assert ("Busy machine" in run.render().split("## ")[0]) is warns


def test_findings_are_shown_for_the_run_that_they_are_about(run: Run) -> None:
    line = findings_line(variant_rows(run.results()))
    findings = f"{line}\n- The student overfits.\n"
    assert "## Findings\n\n- The student overfits.\n\n## " in run.render(findings=findings)
    run.set_error("lowrank", 23.5)
    text = run.render(findings=findings)
    assert "overfits" not in text
    assert findings_line(variant_rows(run.results())) in text  # what to begin new ones with


def test_text_from_outside_is_escaped(run: Run) -> None:
    hostile = "a|b `c` <img src=x> **d**\n# e\x1b[0m"
    run.set("data", name="folder", folder=f"../{hostile}")
    run.change(profile_path(), machine=MACHINE | {"cpu": hostile, "gpu": hostile, "os": hostile})
    run.change(training_path("base"), device=hostile)
    text = run.render()
    assert not re.search(r"<img|(?<!\\)\*\*d|(?<!\\)`c|^# e|\x1b", text, re.MULTILINE)
    assert text.count(r"a\|b \`c\` &lt;img") == 7
    assert len(table(text, "What was run")) == len(MODELS)


def test_a_model_that_lost_no_channels_has_no_figure_of_them(run: Run) -> None:
    assert "channels.svg" in run.render()
    for model in ("structured", "lowrank"):
        run.change(compression_path(model), widths=[64] * 66, ranks=[])
    assert "channels.svg" not in run.render()


def test_a_new_model_appears_by_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "thinned", Model("thinned", maker="thin"))
    Run()
    text = run.render()
    for heading, name in (
        ("All variants", "thinned-int8"),
        ("How each model was made", "thinned"),
        ("Goals", "thinned-int8"),
        ("What was run", "thinned"),
    ):
        assert row(text, heading, name)
    assert "thinned-int8" in draw_tradeoffs(variant_rows(run.results()))
    assert "thinned" in draw_curves(run.results())
