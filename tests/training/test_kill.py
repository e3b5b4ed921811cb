"""A training killed at any moment goes on to the same weights."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from stages import download
from stages.lib.params import load_params
from stages.lib.sources import datasets as sources
from tests.repository import wait_until

ROOT = Path(__file__).parents[2]
SAVES_EVERY_STEP = "from stages import train; from stages.lib.training import fit; fit.SAVE_EVERY_S = 0; train.main()"
KILLS = 10


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work tree with a few digits and a training of 192 steps."""
    params = load_params(ROOT / "presets" / "demo.yaml", complete=False).model_dump(mode="json")
    params["data"].update(val_per_class=4)
    params["model"].update(width=0.1)
    params["train"].update(epochs=12, warmup_epochs=1, batch_size=10, muon_lr=0.02)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    digits = sources.load_dataset(name="digits", limit_per_class=20)
    download.write_split(tmp_path / "data" / "train.npz", digits.train, digits.classes)
    return tmp_path


def start(work: Path, resume: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RESUME_DIR": str(work / resume), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SAVES_EVERY_STEP], cwd=work, env=environment, stdout=subprocess.PIPE, text=True
    )


def save_time(work: Path) -> int:
    """When the state was last saved, 0 for never."""
    return max((path.stat().st_mtime_ns for path in (work / "killed").glob("*.safetensors")), default=0)


@pytest.mark.slow
def test_of_two_processes_with_the_same_training_the_second_waits_and_takes_over_the_result(work: Path) -> None:
    first = start(work, "shared")
    wait_until(lambda: list((work / "shared").glob("*.safetensors")) or first.poll() is not None, every=0.01)
    second = start(work, "shared")
    (said, _), (waited, _) = first.communicate(), second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    assert "another process is training the same model; waiting" in waited
    assert "resuming at step 192 of 192" in waited and "epoch  12" in said
    assert list((work / "shared").iterdir()) == []


@pytest.mark.slow
def test_killed_training_ends_with_bit_identical_weights(work: Path) -> None:
    model = work / "artifacts" / "models" / "base.safetensors"
    start(work, "whole").communicate()
    whole = model.read_bytes()
    model.unlink()

    moments = random.Random(0)
    for _ in range(KILLS):
        process = start(work, "killed")
        known = save_time(work)
        while process.poll() is None and save_time(work) == known:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not model.exists()
    output, _ = start(work, "killed").communicate()
    assert "resuming at step" in output
    assert model.read_bytes() == whole
    assert list((work / "killed").glob("*.safetensors")) == []
