"""The report: from made-up measurements to metrics, sentences, figures and files."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import report
from stages.lib.errors import one_line_errors
from stages.lib.figures import draw_curves, draw_tradeoffs
from stages.lib.params import load_params
from stages.lib.reporting import render_report
from stages.lib.results import Accuracy, Cost, Epoch, Results, Variant
from stages.lib.wording import duration, error_verdict, latency_verdict, listed, significant, size_verdict

ROOT = Path(__file__).parents[1]
MODELS = ("base", "structured", "unstructured")
METRICS = [
    "top1_error_pct",
    "top5_error_pct",
    "num_parameters",
    "num_nonzero_parameters",
    "macs",
    "file_bytes",
    "latency_cpu_ms",
    "memory_mb",
]
ERRORS = {"base": 22.914, "structured": 24.377, "unstructured": 23.1}
LATENCIES = {"base": 6.6123, "structured": 5.0456, "unstructured": 6.5412}
PARAMETERS = {"base": 6_402_564, "structured": 4_089_523, "unstructured": 6_402_564}
MACHINE = {
    "cpu": "Example CPU @ 2 GHz",
    "physical_cores": 2,
    "threads": 2,
    "avx2": True,
    "avx512f": False,
    "avx512_vnni": False,
    "avx_vnni": False,
    "ram_gb": 7.8,
    "gpu": None,
    "os": "Linux",
    "python": "3.12.3",
    "torch": "2.14.1",
    "onnxruntime": "1.32.0",
}
PRESET = (ROOT / "presets" / "demo.yaml").read_text(encoding="utf-8")


def cost(model: str, *, int8: bool = False) -> dict[str, Any]:
    latency = LATENCIES[model] / (1.9 if int8 else 1)
    return {
        "num_parameters": PARAMETERS[model],
        "num_nonzero_parameters": 1_350_123 if model == "unstructured" else PARAMETERS[model],
        "macs": 341_000_000 if model == "structured" else 531_000_000,
        "file_bytes": PARAMETERS[model] * (1 if int8 else 4) + 80_000,
        "latency_cpu_ms": latency,
        "latency_cpu_p5_ms": 0.97 * latency,
        "latency_cpu_p95_ms": 1.08 * latency,
        "memory_mb": 38.264 if int8 else 61.917,
    }


def eager(model: str) -> dict[str, Any]:
    return {
        "checkpoint_bytes": 4 * PARAMETERS[model] + 60_000,
        "latency_eager_ms": 3 * LATENCIES[model],
        "memory_mb": 71.3,
        "profiler_cpu_ms": 4 * LATENCIES[model],
        "latency_cuda_ms": None,
        "profiler_cuda_ms": None,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def change(path: str, **values: Any) -> None:
    write_json(Path(path), json.loads(Path(path).read_text(encoding="utf-8")) | values)


def change_params(section: str, **values: Any) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def write_curve(model: str, *, num_epochs: int) -> None:
    path = Path(f"reports/curves/{model}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("epoch", "train_loss", "val_error_pct", "lr", "images_per_s"))
        if model != "base":
            writer.writerow((0, None, 85.13, 0.0, None))
        for epoch in range(1, num_epochs + 1):
            end = {"base": 22.4, "structured": 24.9, "unstructured": 23.3}[model]
            share = epoch / num_epochs
            writer.writerow((epoch, round(4.6 - 3.5 * share, 4), round(95 - (95 - end) * share**0.3, 2), 0.1, 612.5))


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, made the current one, with everything that the stages before the report write."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PRESET, encoding="utf-8")
    variants = {}
    for model in MODELS:
        for precision, extra in (("fp32", 0.0), ("int8", 0.31)):
            errors = {"top1_error_pct": ERRORS[model] + extra, "top5_error_pct": 6.1234 + extra, "num_images": 10_000}
            write_json(Path(f"artifacts/evaluation/{model}-{precision}.json"), errors)
        variants |= {model: cost(model), f"{model}-int8": cost(model, int8=True)}
        facts = {"seconds": 4321.0, "num_train_images": 45_000, "num_val_images": 5000, "device": "CPU, 2 threads"}
        write_json(Path(f"artifacts/training/{model}.json"), facts | {"precision": "fp32", "torch": "2.14.1"})
        write_curve(model, num_epochs=12 if model == "base" else 4)
    profile = {"machine": MACHINE, "rounds": 10, "calls_per_round": 20, "variants": variants}
    write_json(Path("artifacts/profile.json"), profile | {"eager": {model: eager(model) for model in MODELS}})


def results() -> Results:
    return report.read_results(load_params())


def paragraph(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"**`{name}`**"))


def variant(*, error: float = 20.0, latency: float = 6.6, size: int = 25_700_000, num_images: int = 10_000) -> Variant:
    costs = cost("base") | {"latency_cpu_ms": latency, "file_bytes": size}
    accuracy = Accuracy(top1_error_pct=error, top5_error_pct=5.0, num_images=num_images)
    return Variant("base", "base", "fp32", accuracy, Cost.model_validate(costs))


def test_the_stage_writes_metrics_report_and_figures() -> None:
    report.main()
    text = Path("reports/report.md").read_text(encoding="utf-8")
    images = re.findall(r"!\[.+\]\((.+)\)", text)
    assert len(images) == 2
    for image in images:
        assert "<svg" in Path("reports", image).read_text(encoding="utf-8")
    assert list(json.loads(Path("metrics.json").read_text(encoding="utf-8"))) == [
        name for model in MODELS for name in (model, f"{model}-int8")
    ]


def test_every_variant_has_the_same_metrics_in_two_significant_digits() -> None:
    report.main()
    text = Path("metrics.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    values = json.loads(text)
    for of_variant in values.values():
        assert list(of_variant) == METRICS
    assert values["base"] == {
        "top1_error_pct": 22.91,
        "top5_error_pct": 6.12,
        "num_parameters": 6_402_564,
        "num_nonzero_parameters": 6_402_564,
        "macs": 531_000_000,
        "file_bytes": 25_690_256,
        "latency_cpu_ms": 6.6,
        "memory_mb": 62.0,
    }


def test_base_comes_first_whatever_the_order_of_the_parameters() -> None:
    change_params("models", reported=["structured", "base"])
    assert [each.name for each in results().variants] == ["base", "base-int8", "structured", "structured-int8"]


def test_a_model_left_out_of_the_parameters_is_left_out_of_the_report() -> None:
    change_params("models", reported=["base", "structured"])
    Path("reports/curves/unstructured.csv").unlink()
    text = render_report(results())
    assert "structured, original" in text
    assert "unstructured" not in text.lower()


def test_base_alone_makes_a_report() -> None:
    change_params("models", reported=["base"], pruned=[])
    report.main()
    assert "of fine-tuning, on" not in Path("reports/report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("data", "epochs", "is_small"),
    [
        ({"name": "cifar100"}, 200, False),
        ({"name": "cifar100"}, 100, False),
        ({"name": "cifar100"}, 99, True),
        ({"name": "cifar100", "limit_per_class": 50}, 200, True),
        ({"name": "digits"}, 200, True),
    ],
)
def test_a_small_budget_is_said_up_front(data: dict[str, Any], epochs: int, is_small: bool) -> None:
    change_params("data", **data)
    change_params("train", epochs=epochs)
    first = render_report(results()).split("\n\n")[1]
    assert ("small budget" in first) == is_small
    if is_small:
        assert f"{epochs} epochs of training and 4 of fine-tuning, on 45,000 images" in first


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            22.0,
            "raises the top-1 error by 2.00 points (22.00 % against 20.00 %), beyond the noise of 10,000 test images",
        ),
        (
            20.5,
            "raises the top-1 error by 0.50 points (20.50 % against 20.00 %), within the noise of 10,000 test images",
        ),
        (18.5, "lowers the top-1 error by 1.50 points"),
        (20.001, "has the same top-1 error, 20.00 %"),
    ],
)
def test_a_change_in_error_is_weighed_against_its_noise(error: float, expected: str) -> None:
    assert expected in error_verdict(variant(error=error), variant())


def test_few_test_images_make_a_large_change_noise() -> None:
    verdict = error_verdict(variant(error=23.0, num_images=360), variant(num_images=360))
    assert "within the noise of 360 test images" in verdict


@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        (5.0, "is 1.32 times as fast (5.0 against 6.6 ms an image)"),
        (6.5, "is no faster (6.5 against 6.6 ms an image)"),
        (6.8, "is no faster (6.8 against 6.6 ms an image)"),
        (7.4, "is slower: it takes 1.12 times as long (7.4 against 6.6 ms an image)"),
    ],
)
def test_a_small_difference_in_latency_is_none(latency: float, expected: str) -> None:
    assert latency_verdict(variant(latency=latency), variant()) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (6_540_000, "shrinks 3.93-fold, from 25.7 to 6.54 MB"),
        (25_701_000, "keeps its size, 25.7 MB"),
        (51_400_000, "grows 2.00-fold, from 25.7 to 51.4 MB"),
    ],
)
def test_a_file_shrinks_grows_or_keeps_its_size(size: int, expected: str) -> None:
    assert size_verdict(variant(size=size), variant()) == expected


def test_numbers_have_the_digits_that_they_deserve() -> None:
    assert [significant(value) for value in (0, 0.0123, 6.04, 9.96, 61.9, 1234.5, None)] == [
        "0.0",
        "0.012",
        "6.0",
        "10",
        "62",
        "1,200",
        "–",  # noqa: RUF001
    ]
    assert [duration(seconds) for seconds in (45, 600, 9000)] == ["45 s", "10 min", "2.5 h"]
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_a_method_that_gains_nothing_is_said_to_lose() -> None:
    text = render_report(results())
    assert "So it loses to `base`" in paragraph(text, "unstructured")
    assert "multiplies by them all the same" in paragraph(text, "unstructured")
    assert "loses to" not in paragraph(text, "structured")


def test_the_validation_error_before_and_after_fine_tuning_is_told() -> None:
    told = "was 85.13 % before fine-tuning and 24.90 % after 4 epochs of it"
    assert told in paragraph(render_report(results()), "structured")


@pytest.mark.parametrize(
    ("loss", "told"), [("none", None), ("kd", "Hinton"), ("standardized_kd", "with standardized logits")]
)
def test_the_teacher_of_fine_tuning_is_told(loss: str, told: str | None) -> None:
    distillation = yaml.safe_load(PRESET)["finetune"]["distillation"] | {"loss": loss}
    change_params("finetune", distillation=distillation)
    text = render_report(results())
    assert ("`base` as its teacher" in text) is (told is not None)
    assert told is None or told in text


def test_channel_counts_are_named_as_a_cause_only_where_they_are_uneven() -> None:
    assert "`prune.round_to: null` leaves channel counts" in paragraph(render_report(results()), "structured")
    change_params("prune", round_to=8)
    assert "channel counts" not in paragraph(render_report(results()), "structured")


def test_int8_is_compared_with_its_parent_and_with_base() -> None:
    told = paragraph(render_report(results()), "structured-int8")
    assert "Against `structured` in fp32 it raises the top-1 error by 0.31 points" in told
    assert "Against `base` it raises the top-1 error by 1.78 points" in told


def test_what_was_not_measured_is_a_dash_with_a_note() -> None:
    text = render_report(results())
    row = next(line for line in text.splitlines() if line.startswith("| Total time CUDA"))
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["12.64 ms", "–"]  # noqa: RUF001
    assert "marks what was not measured" in text

    costs = {model: eager(model) | {"latency_cuda_ms": 7.91, "profiler_cuda_ms": 3.05} for model in MODELS}
    change("artifacts/profile.json", eager=costs)
    text = render_report(results())
    assert "7.9 ms GPU" in text
    assert "marks what was not measured" not in text


@pytest.mark.parametrize("missing", ["artifacts/profile.json", "artifacts/evaluation/base-int8.json"])
def test_a_missing_input_is_one_line_and_leaves_the_old_report(missing: str) -> None:
    report.main()
    old = {path: path.read_bytes() for path in (Path("metrics.json"), Path("reports/report.md"))}
    change("artifacts/evaluation/base-fp32.json", top1_error_pct=50.0)
    Path(missing).unlink()
    with pytest.raises(SystemExit) as ended, one_line_errors("report"):
        report.main()
    message = str(ended.value)
    assert message.startswith("report: ")
    assert missing in message
    assert "\n" not in message
    assert {path: path.read_bytes() for path in old} == old


@pytest.mark.parametrize("bad", [{"top1_error_pct": float("nan")}, {"top1_error_pct": "?"}, {"num_images": 0}])
def test_a_broken_input_is_named_with_its_key(bad: dict[str, Any]) -> None:
    change("artifacts/evaluation/base-fp32.json", **bad)
    with pytest.raises(ValueError, match=rf"^artifacts/evaluation/base-fp32.json .*: {next(iter(bad))}: .*dvc repro"):
        results()


def test_one_epoch_is_enough_for_report_and_figures() -> None:
    for model in MODELS:
        write_curve(model, num_epochs=1)
    report.main()
    text = Path("reports/report.md").read_text(encoding="utf-8")
    assert "after 1 epoch of it" in text
    assert not re.search(r"\b(nan|NaN|None|inf)\b", text)


def test_figures_are_the_same_bytes_each_time() -> None:
    measured = results()
    assert draw_curves(measured.curves) == draw_curves(measured.curves)
    assert draw_tradeoffs(measured.variants) == draw_tradeoffs(measured.variants)


def test_a_curve_without_fine_tuning_is_drawn() -> None:
    assert "<svg" in draw_curves({"base": [Epoch(epoch=1, train_loss=4.2, val_error_pct=90.0)]})


def test_the_stage_imports_no_torch() -> None:
    code = "import sys; from stages import report; report.main(); sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
