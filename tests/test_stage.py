"""How a stage ends when something is wrong."""

from pathlib import Path

import pytest
import torch

from stages.lib.images import read_images
from stages.lib.network.checkpoint import load_model
from stages.lib.stage import one_line_errors


@pytest.mark.parametrize("read", [read_images, load_model, Path.read_bytes])
def test_a_missing_input_is_named_with_its_remedy(read: object, tmp_path: Path) -> None:
    path = tmp_path / "input"
    with pytest.raises(SystemExit) as ended, one_line_errors("train"):
        read(path)  # type: ignore[operator]
    message = str(ended.value)
    assert message.startswith("train: ") and str(path) in message
    assert message.endswith("is missing; dvc repro makes it first")


def test_a_library_s_message_becomes_one_line() -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors("prune"):
        raise ValueError("too\n  many")
    assert ended.value.code == "prune: too many"


def test_a_full_gpu_is_one_line_with_the_remedy() -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors("train"):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
    assert str(ended.value).startswith("train: batch_size must fit the memory of the GPU")


def test_an_interrupt_is_one_line_and_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors("quantize"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "quantize: interrupted; the same command starts it anew\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), one_line_errors("train"):
        raise KeyError("bug")
