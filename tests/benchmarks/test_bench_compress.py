import importlib.util
from pathlib import Path

import pytest

from benchmarks import compress


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with every file that the benchmark reads."""
    monkeypatch.chdir(tmp_path)
    for path in (*compress.FILES.values(), compress.TRAIN):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("artifacts/fp32/base.onnx", "run dvc repro quantize@base"),
        ("artifacts/int8/base.onnx", "run dvc repro quantize@base"),
        ("data/train.npz", "run dvc repro download"),
    ],
)
def test_missing_file_names_the_remedy(prepared: Path, missing: str, remedy: str) -> None:
    (prepared / missing).unlink()
    with pytest.raises(ValueError, match=rf"{missing} .*; {remedy}$"):
        compress.check_inputs()


@pytest.mark.usefixtures("prepared")
def test_missing_nncf_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"nncf must be installed.*run make bench-compress"):
        compress.check_inputs()


def test_table_has_every_field_and_ratios_to_fp32() -> None:
    results = {
        compress.FP32: compress.Result(20.0, 10_000_000, 4.0, 3.5, 5.0),
        compress.OURS: compress.Result(20.5, 2_500_000, 2.0, 1.5, 3.0),
    }
    rows = compress.table_rows(results)
    assert all(len(row) == len(compress.HEADERS) for row in rows)
    assert rows[1] == ("ours", "20.50", "2.50", "0.25", "2.00 (1.50 to 3.00)", "0.50")
