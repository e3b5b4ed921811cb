"""Files of other stages are read whole or refused in one line that names them."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_up_run import Run, accuracy

from stages.lib.artifacts import (
    compression_path,
    curve_path,
    evaluation_path,
    profile_path,
    quantization_path,
    training_path,
)
from stages.lib.report.results import read_findings

PATHS = (
    evaluation_path("base", "int8"),
    profile_path(),
    training_path("lowrank"),
    quantization_path("base"),
    compression_path("structured"),
    curve_path("distilled"),
)


def assert_refused(run: Run, path: Path, *, naming: str = "") -> None:
    with pytest.raises(ValueError, match="dvc repro") as refused:
        run.results()
    message = str(refused.value)
    assert message.startswith(str(path))
    assert naming in message
    assert "\n" not in message


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]\n", b"null", None], ids=repr)
def test_a_spoiled_file_is_refused(run: Run, path: Path, content: bytes | None) -> None:
    truncated = path.read_bytes()[:-20].rstrip(b"\n0123456789.")
    path.write_bytes(truncated if content is None else content)
    assert_refused(run, path)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"top1_error_pct": float("nan")}, "top1_error_pct"),
        ({"top1_error_pct": 12.0}, "top1_error_pct"),
        ({"top5_error_pct": "?"}, "top5_error_pct"),
        ({"top5_error_pct": 101}, "top5_error_pct"),
        ({"num_images": 0}, "num_images"),
        ({"missed_hex": "0xg"}, "missed_hex"),
        ({"missed_hex": "ff"}, "missed_hex"),
        (accuracy(20, num_images=500), "num_images"),
    ],
)
def test_a_wrong_accuracy_is_named_by_its_key(run: Run, values: dict[str, Any], key: str) -> None:
    run.change(evaluation_path("structured", "int8"), **values)
    assert_refused(run, evaluation_path("structured", "int8"), naming=key)


@pytest.mark.parametrize(
    "values",
    [
        {"latency_cpu_ms": 0.0, "latency_rounds_ms": [1.0] * 3},
        {"latency_rounds_ms": [1.0, 0.0, 1.0]},
        {"latency_rounds_ms": []},
        {"latency_rounds_ms": [1.0] * 4},
        {"file_bytes": -1},
        {"macs": 10**400},
        {"memory_mb": float("inf")},
    ],
)
def test_a_wrong_cost_is_refused(run: Run, values: dict[str, Any]) -> None:
    run.change_cost("lowrank", **values)
    assert_refused(run, profile_path(), naming=next(iter(values)) if len(values) == 1 else "latency_cpu_ms")


@pytest.mark.parametrize(("engine", "name"), [("variants", "distilled-int8"), ("eager", "lowrank")])
def test_a_profile_must_have_every_variant(run: Run, engine: str, name: str) -> None:
    costs = json.loads(profile_path().read_text())[engine]
    run.change(profile_path(), **{engine: {key: cost for key, cost in costs.items() if key != name}})
    assert_refused(run, profile_path(), naming=name)


@pytest.mark.parametrize(
    "row", ["1,2.0", "1,2.0,nan,24,50,0.1", "1,x,50,24,50,0.1", "1,2.0,500,24,50,0.1", "0,,50,,,0", "2,,50,,,0,7", '"']
)
def test_a_wrong_row_of_a_curve_is_refused(run: Run, row: str) -> None:
    path = curve_path("structured")
    path.write_text(f"epoch,train_loss,val_error_pct,image_size,val_error_at_size_pct,lr\n0,,85,,,0\n{row}\n")
    assert_refused(run, path)


def test_a_curve_of_a_header_alone_is_refused(run: Run) -> None:
    curve_path("base").write_text("epoch,train_loss,val_error_pct\n")
    assert_refused(run, curve_path("base"))


def test_a_curve_may_lack_the_columns_of_image_sizes(run: Run) -> None:
    run.write_curve("base", num_epochs=2, sizes=False)
    first = run.results().curves["base"][0]
    assert (first.val_error_pct, first.image_size, first.val_error_at_size_pct) == (89.5, None, None)


def test_a_shape_must_have_an_entry_for_each_layer(run: Run) -> None:
    run.change(compression_path("lowrank"), ranks=[0, 1])
    assert_refused(run, compression_path("lowrank"), naming="ranks")


def test_findings_may_be_missing_but_must_be_text(tmp_path: Path) -> None:
    path = tmp_path / "findings.md"
    assert read_findings(path) == ""
    path.write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match=r"findings.md must be text"):
        read_findings(path)
