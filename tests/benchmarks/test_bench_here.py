import argparse
import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import here
from stages.lib.artifacts import evaluation_path, write_json
from stages.lib.models import MODELS, Model
from stages.lib.network.checkpoint import load_model, save_model
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.profiling.measuring import Measurement
from stages.lib.quantization.export import export_onnx
from stages.lib.runtime.packing import pack

BASE = MODELS["base"]


@pytest.fixture
def pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with what `dvc pull` brings of a model and of a packed one; their contents don't matter."""
    monkeypatch.chdir(tmp_path)
    for file in ("int8/base.onnx", "packed/sparse-fp32.onnx.packed", "packed/sparse-int8.onnx.packed"):
        path = Path("artifacts", file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.usefixtures("pulled")
def test_without_torch_every_file_that_was_pulled_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert here.find_files([BASE, Model("sparse", maker="sparsify", packed=True)], exports=Path("exports")) == {
        "base-int8": Path("artifacts/int8/base.onnx"),
        "sparse": Path("artifacts/packed/sparse-fp32.onnx.packed"),
        "sparse-int8": Path("artifacts/packed/sparse-int8.onnx.packed"),
    }


def test_missing_model_names_the_remedy(pulled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (pulled / "artifacts/int8/base.onnx").unlink()
    with pytest.raises(ValueError, match=r"int8/base.onnx must .*; run dvc pull --allow-missing$"):
        here.find_files([BASE], exports=Path("exports"))


@pytest.mark.parametrize("name", ["../x", "", "a b"])
def test_latencies_are_saved_under_a_plain_name_alone(name: str) -> None:
    assert here.file_name("pi-5") == "pi-5"
    with pytest.raises(argparse.ArgumentTypeError, match="must have letters"):
        here.file_name(name)


@pytest.mark.usefixtures("pulled")
def test_nothing_pulled_names_the_remedy_with_torch_too() -> None:
    Path("artifacts/int8/base.onnx").unlink()
    with pytest.raises(ValueError, match=r"int8/base.onnx must .*; run dvc pull --allow-missing$"):
        here.find_files([BASE], exports=Path("exports"))


def test_missing_fp32_file_is_exported_elsewhere(pulled: Path, tiny: GoogLeNet) -> None:
    classes = [str(label) for label in range(tiny.architecture.num_classes)]
    save_model(tiny, pulled / "artifacts/models/base.safetensors")
    saved = load_model(pulled / "artifacts/models/base.safetensors")
    # Read for its class names alone.
    export_onnx(saved, pulled / "artifacts/int8/base.onnx", classes=classes, image_size=32)
    digest = hashlib.sha256((pulled / "artifacts/int8/base.onnx").read_bytes()).hexdigest()
    write_json(evaluation_path("base", "int8"), {"file_sha256": digest})
    exports = pulled / "exports"
    paths = here.find_files([BASE], exports=exports)
    assert paths["base"] == exports / "base.onnx"
    assert paths["base"].read_bytes() == (pulled / "artifacts/int8/base.onnx").read_bytes()
    assert not (pulled / "artifacts/fp32").exists()


def test_a_file_that_was_not_evaluated_is_not_opened(pulled: Path) -> None:
    (pulled / "artifacts/int8/base.onnx").write_bytes(b"hostile")
    write_json(evaluation_path("base", "int8"), {"file_sha256": "0" * 64})
    with pytest.raises(ValueError, match=r"int8/base.onnx must hold the file that was evaluated"):
        here.find_files([BASE], exports=pulled / "exports")


def test_table_has_every_field_and_ratios_to_base() -> None:
    measured = {  # three rounds of two calls
        "base": Measurement(np.array([7.0, 9.0, 8.0, 8.0, 7.0, 9.0]), {}),
        "base-int8": Measurement(np.array([3.0, 5.0, 4.0, 4.0, 2.0, 2.0]), {}),
    }
    recorded = {
        "base": {
            "top1_error_pct": 20.0,
            "file_bytes": 10_000_000,
            "latency_cpu_ms": 6.0,
            "latency_rounds_ms": [6.0, 7.0],
        },
        "base-int8": {
            "top1_error_pct": 20.5,
            "file_bytes": 2_500_000,
            "latency_cpu_ms": 2.0,
            "latency_rounds_ms": [2.0, 2.0],
        },
    }
    rows = here.table_rows(measured, recorded, rounds=3)
    assert all(len(row) == len(here.HEADERS) for row in rows)
    latency = "3.50 (2.00 to 4.75)"
    assert rows[1] == ("base-int8", "20.50", "2.50", latency, "2.00 (2.00 to 3.80)", "2.00", "3.25")
    alone = here.table_rows({"base-int8": measured["base-int8"]}, recorded, rounds=3)
    assert alone == [("base-int8", "20.50", "2.50", latency, "-", "2.00", "3.25")]


def test_unstructured_stands_in_for_a_base_that_was_not_measured() -> None:
    measured = {"unstructured": Measurement(np.array([8.0]), {}), "base-int8": Measurement(np.array([4.0]), {})}
    costs = {"top1_error_pct": 20.0, "file_bytes": 10_000_000, "latency_cpu_ms": 6.0, "latency_rounds_ms": [6.0]}
    rows = here.table_rows(measured, dict.fromkeys(("base", *measured), costs), rounds=1)
    assert [row[4].split()[0] for row in rows] == ["1.00", "2.00"]


def test_a_file_that_was_not_evaluated_is_refused(
    tiny: GoogLeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain, packed = Path("plain.onnx"), Path("sparse.onnx.packed")
    export_onnx(tiny, plain, classes=["ant", "bee", "cat"], image_size=32)
    packed.write_bytes(pack(plain.read_bytes()))
    record = {"file_sha256": hashlib.sha256(plain.read_bytes()).hexdigest()}
    Path("artifacts/evaluation").mkdir(parents=True)
    for name in ("base-int8", "sparse-fp32"):
        Path(f"artifacts/evaluation/{name}.json").write_text(json.dumps(record), encoding="utf-8")
    exported = Path("exports/base.onnx")  # has no record
    paths = {"base": exported, "base-int8": plain, "sparse": packed}
    here.refuse_others(["base", "sparse"], paths, exports=exported.parent)
    plain.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"^plain.onnx must hold the file that was evaluated, got another; "):
        here.refuse_others(["base", "sparse"], paths, exports=exported.parent)
