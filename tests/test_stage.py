"""How a stage ends when something is wrong."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stages.lib import stage
from stages.lib.images import read_images
from stages.lib.network.checkpoint import load_model
from stages.lib.stage import one_line_errors

ROOT = Path(__file__).parents[1]


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
    assert str(ended.value).startswith("train: the GPU is out of memory")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_full_memory_is_one_line_with_the_remedy(error: Exception) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors("download"):
        raise error
    assert str(ended.value).startswith("download: out of memory; lower batch_size")


def test_an_interrupt_is_one_line_and_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors("quantize"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "quantize: interrupted; the same command starts it again\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), one_line_errors("train"):
        raise KeyError("bug")


def test_sigterm_closes_what_is_open_and_is_no_success(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, one_line_errors("quantize"), tempfile.TemporaryDirectory(dir=tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_a_finalizer_ends_the_process_too(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    with pytest.raises(SystemExit) as ended, one_line_errors("quantize"):
        Finalized()
        time.sleep(10)
    assert ended.value.code == code
    assert "Traceback" not in capsys.readouterr().err


def test_an_interrupt_during_the_imports_is_one_line() -> None:
    code = "import stages; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stderr, done.returncode != 0) == ("interrupted\n", True)


@pytest.mark.parametrize(("parents", "gone"), [([1], True), ([77], False), ([], False)])
def test_a_stage_whose_dvc_has_died_before_it_began_is_an_orphan(
    monkeypatch: pytest.MonkeyPatch, parents: list[int], gone: bool
) -> None:
    monkeypatch.setattr(stage, "_is_dvc", lambda _: False)
    ancestors = stage.Ancestors()
    ancestors._below_dvc = [SimpleNamespace(ppid=lambda parent=parent: parent) for parent in parents]  # type: ignore[misc]
    ancestors._parents = parents
    assert ancestors.dvc_is_gone() == gone
