"""What several tests need: a tiny network and tiny images."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.lib.artifacts import lock
from stages.lib.images import Images
from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
from stages.lib.params import load_params
from stages.lib.schema import Params
from tests.repository import TINY, Repository

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # tiny networks gain nothing from more, and wait for busy cores


LONG = ("test_pipeline", "test_sweep", "test_kills", "test_photos", "test_cifar100", "test_two_at_once", "test_places")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that parallel processes of pytest end at about the same time."""
    order = {name: number for number, name in enumerate(LONG)}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG) + (item.path not in slow)))


@pytest.fixture(autouse=True)
def resume_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep resume files and caches out of the user's folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RESUME_DIR", str(tmp_path / "resume"))
    return tmp_path / "resume"


@pytest.fixture(scope="session")
def demo() -> Params:
    """The demo's parameters."""
    return load_params(ROOT / "presets" / "demo.yaml", complete=False)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository in which everything has run once on a few digits; not to be changed, other tests have it too."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished"
    with lock(folder / "lock"):  # parallel processes of pytest share one
        if (folder / "done").exists():
            return Repository(folder / "repository")
        repository = Repository.copy(folder / "repository", preset="demo", **TINY)
        repository.repro()
        repository.commit("first run")
        (folder / "done").touch()
        return repository


@pytest.fixture
def tiny() -> GoogLeNet:
    """A narrow network with three classes and statistics that are not those of a fresh one."""
    torch.manual_seed(0)
    model = GoogLeNet(Architecture(scaled_widths(0.1), num_classes=3, stem_pool=True, dropout=0.1))
    model.set_normalization(np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3]))
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 32, 32))  # moves BatchNorm's statistics
    return model.eval()


@pytest.fixture
def images() -> Images:
    """Thirty random images of three classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    return Images(pixels, np.repeat(np.arange(3), 10), ("ant", "bee", "cat"))
