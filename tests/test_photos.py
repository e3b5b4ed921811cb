"""A user's own photos, from the folder to the report, as the README says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.lib.network.checkpoint import save_model
from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
from stages.lib.sources.datasets import read_digits
from tests.repository import TINY, Repository


@pytest.mark.slow
def test_photos_go_from_a_folder_to_a_report_and_a_changed_one_is_noticed(tmp_path: Path) -> None:
    changes = {**TINY, "data__limit_per_class": None, "data__val_per_class": 2, "train__batch_size": 16}
    changes["train__start"] = "base.safetensors"
    repository = Repository.copy(tmp_path / "repository", preset="photos", **changes)
    digits = read_digits(100).train
    for label in range(3):
        folder = repository.path / "photos" / "train" / str(label)
        folder.mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(digits.labels == label)[:12]):
            Image.fromarray(digits.images[index]).save(folder / f"{number}.jpg")
    start = GoogLeNet(Architecture(scaled_widths(0.1), num_classes=100, stem_pool=True, dropout=0.0))
    save_model(start, repository.path / "external" / "checkpoints" / "base.safetensors")
    assert repository.run("git", "status", "--short") == ""  # neither photos nor models get into git

    repository.repro()
    report = (repository.path / "reports/report.md").read_text()
    assert "`external/checkpoints/base.safetensors`" in report and "64×64 pixels" in report
    assert "(N, 64, 64, 3)" in (repository.path / "reports/cards/base-int8.md").read_text()
    photo = repository.path / "photos/train/0/0.jpg"
    printed = repository.run(
        "python", "-m", "stages.predict", str(photo), "--model", "artifacts/int8/base.onnx", "--format", "json"
    )
    assert {row["class"] for row in json.loads(printed)[str(photo)]} == {"0", "1", "2"}

    assert "up to date" in repository.run("dvc", "status")
    photo.unlink()
    assert "download" in repository.run("dvc", "status")
