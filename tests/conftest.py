"""What several tests need: a tiny network and tiny images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.lib.images import Images
from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
from stages.lib.params import Params, load_params

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # tiny networks gain nothing from more, and wait for busy cores


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
