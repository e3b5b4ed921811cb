"""The pipeline on a few hundred real CIFAR-100 images, at the width of the recorded run."""

import json
import os
from pathlib import Path

import pytest

from stages.lib.models import MODELS, PRECISIONS, variant_name
from tests.repository import TINY, Repository

FOLDER = os.environ.get("CIFAR100_DIR")


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="CIFAR100_DIR names no images")
def test_the_pipeline_runs_on_cifar100(tmp_path: Path) -> None:
    sizes = {f"{section}__image_sizes": {16: 1} for section in ("train", "finetune", "distill", "squeeze")}
    changes = TINY | sizes | {"data__limit_per_class": 3, "data__val_per_class": 1}
    changes |= {"model__width": 1.0, "prune__round_to": 16, "lowrank__round_to": 8, "distill__round_to": 16}
    repository = Repository.copy(tmp_path / "repository", preset="cpu", **changes)
    repository.environment |= {"CIFAR100_DIR": str(FOLDER), "OMP_NUM_THREADS": "2"}
    repository.repro()
    metrics = json.loads((repository.path / "metrics.json").read_text())
    assert set(metrics) == {variant_name(model, precision) for model in MODELS for precision in PRECISIONS}
    assert metrics["base"]["num_parameters"] == 6_402_564
    assert metrics["structured"]["num_parameters"] == 4_047_716
