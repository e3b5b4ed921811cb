"""Files that another stage, an editor or a full disk spoiled."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import report
from stages.lib import artifacts
from stages.lib.models import MODELS
from stages.lib.params import load_params
from stages.lib.report.figures import draw_channels, draw_curves, draw_tradeoffs
from stages.lib.report.results import read_curve, read_findings
from stages.lib.report.tables import metrics, variant_rows
from stages.lib.stage import one_line_errors
from tests.report.run import HEADER, NUM_IMAGES, ROUNDS, Run, accuracy, latencies

VARIANTS = [name + suffix for name in MODELS for suffix in ("", "-int8")][1:]
WRONG_VALUES = ("text", float("nan"), float("inf"), -1, 10**400, 1e300, None, [], {})
WRONG_CELLS = ("text", "nan", "inf", "-1", "1e300", "1e999", '"', '"1"2', "\0", "1,2,3", "９９" * 99)


def inputs() -> list[Path]:
    return sorted(
        [*Path("artifacts").rglob("*.json"), artifacts.cuda_profile_path(), *Path("reports/curves").glob("*.csv")]
    )


def refusal(path: Path) -> str:
    """How the stage ends because of a file: with one line that names it."""
    with pytest.raises(SystemExit) as ended, one_line_errors("report"):
        report.main()
    message = ended.value.code
    assert isinstance(message, str) and message.isprintable(), message
    assert message.startswith("report: ") and str(path) in message and "dvc repro" in message, message
    return message


def places(container: Any) -> Iterator[tuple[Any, Any]]:
    """Each place of a number or text, as a container and a key; of a list and of the variants only the first."""
    keys = range(1) if isinstance(container, list) else [key for key in container if key not in VARIANTS]
    for key in keys:
        if not isinstance(container[key], dict | list):
            yield container, key
        elif container[key]:
            yield from places(container[key])


@pytest.fixture
def old_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A report that must stay as it is."""
    params = load_params()
    monkeypatch.setattr(report, "load_params", lambda: params)  # read once, for speed
    outputs = (artifacts.REPORTS / "report.md", artifacts.METRICS)
    for path in outputs:
        path.write_text("old", encoding="utf-8")
    yield run
    assert [path.read_text(encoding="utf-8") for path in outputs] == ["old", "old"]
    assert not Path("reports/figures").exists() and not list(Path().rglob("*.tmp"))


@pytest.mark.usefixtures("old_report")
@pytest.mark.parametrize(
    "spoiled",
    [b"", b"\n", b"null", b"[]", b"{}", b"0", b"\xff\xfe\x00", b"[" * 50_000, b'{"a":' * 50_000, b"1" * 5000, None],
    ids=["empty", "blank", "null", "list", "object", "number", "binary", "deep", "deep objects", "long", "truncated"],
)
def test_a_spoiled_file_ends_the_stage_with_a_line_that_names_it(spoiled: bytes | None) -> None:
    for path in inputs():
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] if spoiled is None else spoiled)
        refusal(path)
        path.write_bytes(whole)


@pytest.mark.usefixtures("old_report")
def test_a_missing_file_is_named() -> None:
    for path in inputs():
        whole = path.read_bytes()
        path.unlink()
        assert "is missing" in refusal(path)
        path.write_bytes(whole)


@pytest.mark.usefixtures("old_report")
@pytest.mark.parametrize("kind", ["compression", "evaluation", "profile", "quantization", "training"])
def test_a_wrong_value_ends_the_stage_with_a_line_that_names_the_file(kind: str) -> None:
    path = next(path for path in inputs() if kind in str(path))
    content = json.loads(path.read_text(encoding="utf-8"))
    for container, key in places(content):
        right = container[key]
        takes_text = isinstance(right, str) and key not in ("labels", "predictions")
        for wrong in WRONG_VALUES:
            if wrong is not right and not (takes_text and wrong == "text"):
                container[key] = wrong
                path.write_text(json.dumps(content), encoding="utf-8")
                refusal(path)
        container[key] = right


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (artifacts.evaluation_path("base", "fp32"), accuracy(range(5)) | {"top1_error_pct": 5.0}),
        (artifacts.evaluation_path("base", "fp32"), {"predictions": "1 2"}),
        (artifacts.evaluation_path("lowrank", "int8"), accuracy(range(20), num_images=NUM_IMAGES - 8)),
        (artifacts.profile_path(), {"rounds": ROUNDS + 1}),
        (artifacts.profile_path(), {"variants": {}}),
        (artifacts.profile_path(), {"eager": {}}),
        (artifacts.profile_path(), {"variants": {"\x1b[31m\n\ud800": 3}}),
        (artifacts.quantization_path("base"), {"candidates": []}),
        (artifacts.quantization_path("base"), {"packed_bytes": {"int8": 1}}),
        (artifacts.compression_path("structured"), {"widths": [64] * 3}),
        (artifacts.compression_path("lowrank"), {"ranks": [8, 8]}),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(old_report: Run, path: Path, values: dict[str, Any]) -> None:
    old_report.change(path, **values)
    refusal(path)


def test_a_latency_of_next_to_nothing_is_refused(old_report: Run) -> None:
    old_report.change_cost("base", latency_rounds_ms=[1e-300] * ROUNDS)
    assert "variants.base.latency_rounds_ms.0: " in refusal(artifacts.profile_path())


@pytest.mark.parametrize("cell", WRONG_CELLS)
def test_a_wrong_cell_of_a_curve_is_refused(old_report: Run, cell: str) -> None:
    whole = ["0", "1.5", "85.1", "32", "85.1"]
    for column in range(len(whole)):
        old_report.write_curve("lowrank", HEADER, ",".join([*whole[:column], cell, *whole[column + 1 :]]))
        refusal(artifacts.curve_path("lowrank"))


@pytest.mark.parametrize(
    "lines",
    [
        [HEADER],
        ["a,b", "1,2"],
        ["1,2", "3,4"],
        [HEADER, "1,1.5,50"],
        [HEADER, "1,1.5,50,,", "1,1.4,49,,"],
        [HEADER, "2,1.5,50,,", "1,1.4,49,,"],
        [HEADER, "1,1.5,,,"],
        [HEADER, ",1.5,50,,"],
        [HEADER, "1" * 200_000],
    ],
)
def test_a_curve_of_another_shape_is_refused(old_report: Run, lines: list[str]) -> None:
    old_report.write_curve("base", *lines)
    refusal(artifacts.curve_path("base"))


def test_a_curve_from_before_image_sizes_is_read(run: Run) -> None:
    run.write_curve("base", "epoch,train_loss,val_error_pct,lr,images_per_s", "0.5,4.5,90.25,0.1,612.5", "1,4,88,0.1,")
    rows = [(row.epoch, row.train_loss, row.val_error_pct) for row in read_curve(artifacts.curve_path("base"))]
    assert rows == [(0.5, 4.5, 90.25), (1, 4, 88)]
    run.render()


@pytest.mark.usefixtures("old_report")
def test_findings_may_be_missing_but_not_be_binary() -> None:
    path = Path("reports/findings.md")
    assert read_findings(path) == ""
    path.write_bytes(b"\xef\xbb\xbf<!-- line -->\r\n")  # as Windows writes it
    assert read_findings(path) == "<!-- line -->\n"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit, match=re.escape(str(path))), one_line_errors("report"):
        report.main()


@pytest.mark.parametrize("size", ["smallest", "largest"])
def test_numbers_at_their_limits_make_a_report(run: Run, size: str) -> None:
    """What the schemas let through, nothing after them stumbles over."""
    count, latency, number, share = (1, 1e-6, 0, 0) if size == "smallest" else (10**15, 1e12, 1e12, 100)
    for variant in ("base-int8", "lowrank"):
        run.change_cost(variant, **latencies("cpu", latency), latency_cpu_p5_ms=latency, latency_cpu_p95_ms=latency)
        run.change_cost(variant, file_bytes=count, num_parameters=count, macs=count, memory_mb=number)
    run.change(artifacts.profile_path(), "eager", "base", **latencies("eager", latency))
    run.add_gpu(latency_cuda_ms=number)
    run.change(artifacts.training_path("base"), num_train_images=count, seconds=number)
    run.change(artifacts.evaluation_path("base", "int8"), **accuracy(range(NUM_IMAGES * share // 100)))
    run.change(artifacts.compression_path("lowrank"), widths=[count], base_widths=[count], ranks=[count, 0])
    run.write_curve("base", HEADER, f"{number},{number},{share},{count},{share}")
    results = run.results()
    rows = variant_rows(results)
    assert "inf" not in json.dumps(metrics(rows)) and "| `lowrank` |" in run.render()
    for figure in (draw_curves(results), draw_tradeoffs(rows), draw_channels(results.compression)):
        assert figure.rstrip().endswith("</svg>")
