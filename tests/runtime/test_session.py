"""Errors from logits, and what opens as a session."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.lib.runtime.session import calibration_error_pct, error_pct, find_missed, open_session, softmax

LOGITS = np.array([[7, 6, 5, 4, 3, 2], [2, 3, 4, 5, 6, 7], [1, 9, 2, 8, 3, 7], [0, 0, 0, 0, 0, 1]], dtype=np.float32)


def test_error_is_the_share_of_images_whose_label_is_not_on_top() -> None:
    assert error_pct(LOGITS, np.array([0, 5, 1, 5]), top=1) == 0
    assert error_pct(LOGITS, np.array([0, 5, 3, 0]), top=1) == 50


def test_top5_error_misses_only_the_last_of_six() -> None:
    assert error_pct(LOGITS, np.array([5, 5, 5, 5]), top=5) == 25
    assert error_pct(LOGITS, np.array([5, 0, 0, 4]), top=5) == 100


def test_top5_of_fewer_classes_is_never_wrong() -> None:
    assert error_pct(LOGITS[:, :3], np.array([2, 1, 0, 2]), top=5) == 0


def test_images_are_told_apart_by_whether_they_were_missed() -> None:
    assert find_missed(LOGITS, np.array([0, 5, 3, 0]), top=1).tolist() == [False, False, True, True]


def test_probabilities_sum_to_one_for_logits_of_any_size() -> None:
    probabilities = softmax(np.array([[1000, 1000, -1000], [0, 0, 0]], dtype=np.float32))
    assert np.allclose(probabilities, [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_calibration_error_is_how_far_confidence_and_accuracy_are_apart() -> None:
    logits = np.log(np.array([[0.8, 0.2]] * 10, dtype=np.float32))
    assert calibration_error_pct(logits, np.array([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-4)
    assert calibration_error_pct(logits, np.array([0] * 5 + [1] * 5)) == pytest.approx(30, abs=1e-4)
    mixed = np.concatenate([logits, np.log(np.array([[0.6, 0.4]] * 10, dtype=np.float32))])
    assert calibration_error_pct(mixed, np.array([0] * 10 + [1] * 10)) == pytest.approx(40, abs=1e-4)  # 20 and 60


def test_equal_logits_are_no_free_hits() -> None:
    assert error_pct(np.zeros((4, 4), dtype=np.float32), np.arange(4), top=1) == 75


def test_diverged_model_is_an_error_and_not_a_number() -> None:
    with pytest.raises(ValueError, match="logits must be finite"):
        error_pct(np.full((1, 3), np.nan, dtype=np.float32), np.array([0]), top=1)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    names = ("broken.onnx", "broken.onnx.packed")
    for name in names:
        (tmp_path / name).write_bytes(b"no model")
    for name in ("missing.onnx", "missing.onnx.packed", *names):
        with pytest.raises(ValueError, match=f"{name} must be an ONNX model"):
            open_session(tmp_path / name, threads=1)


@pytest.mark.parametrize("stage", ["evaluate", "pack", "predict", "profile"])
def test_stage_does_not_import_torch(stage: str) -> None:
    code = f"import sys, stages.{stage}, stages.lib.runtime.session; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
