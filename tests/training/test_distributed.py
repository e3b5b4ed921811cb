"""Training in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from stages import download
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.params import load_params
from stages.lib.sources import datasets as sources
from stages.lib.stage import LAUNCHER, relaunch
from stages.lib.training.distributed import SynchronizedBatchNorm, any_of_them, from_first, synchronize_batch_norm

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


# In double precision and for four steps: rounding grows up to thirtyfold a step, in eight to a different training.
IN_DOUBLE_PRECISION = """
from pathlib import Path
import torch
from stages.lib.training import muon
from stages.lib.images import read_images, split_validation
from stages.lib.training.distributed import process_group
from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
from stages.lib.params import load_params
from stages.lib.training.fit import fit, write_trained

train, val = split_validation(read_images(Path("data/train.npz")), per_class=4, seed=0)
torch.manual_seed(0)
model = GoogLeNet(Architecture(scaled_widths(0.25), num_classes=10, stem_pool=True, dropout=0.0)).double()
model.mean, model.std = model.mean.float(), model.std.float()  # images stay float32 up to the first layer
model.register_forward_pre_hook(lambda _, images: (images[0].double(),))
orthogonalize = muon.orthogonalize
muon.orthogonalize = lambda matrix, _: orthogonalize(matrix, torch.float64)
with process_group():
    write_trained(fit(model, train, val, recipe=load_params().train, compute=load_params().compute), "base")
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work tree with a few digits and a training of two epochs."""
    params = load_params(ROOT / "presets" / "demo.yaml", complete=False).model_dump(mode="json")
    params["data"].update(val_per_class=4)
    params["model"].update(width=0.1)
    params["train"].update(epochs=2, warmup_epochs=1, batch_size=32, lr=0.003, muon_lr=0.003)
    params["train"]["augmentation"].update(flip=True, cutout=8, cutmix=1.0, trivial_augment=True)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "in_double_precision.py").write_text(IN_DOUBLE_PRECISION)
    digits = sources.load_dataset(name="digits", limit_per_class=12)
    download.write_split(tmp_path / "data" / "train.npz", digits.train, digits.classes)
    return tmp_path


def run(work: Path, *command: str, launcher: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python in `work`."""
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "RESUME_DIR": str(work / "resume"), "OMP_NUM_THREADS": "1",
        LAUNCHER: launcher,
    }  # fmt: skip
    return subprocess.run([sys.executable, *command], cwd=work, env=environment, capture_output=True, text=True)


def results(work: Path) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """Curve and weights of a training that has ended."""
    weights = load_file(work / "artifacts" / "models" / "base.safetensors")
    return pd.read_csv(work / "reports" / "curves" / "base.csv"), weights


@pytest.mark.slow
def test_two_processes_train_as_one_does_within_rounding(work: Path) -> None:
    alone = run(work, "in_double_precision.py")
    assert alone.returncode == 0, alone.stderr
    curve, weights = results(work)
    together = run(work, *TWO_PROCESSES, "in_double_precision.py")
    assert together.returncode == 0, together.stderr
    shared_curve, shared_weights = results(work)
    columns = ["epoch", "train_loss", "val_error_pct", "lr"]
    pd.testing.assert_frame_equal(curve[columns], shared_curve[columns], atol=2e-4)  # the file has four decimals
    for name, tensor in weights.items():
        rounding = 1e-3 if tensor.dtype == torch.half else 1e-5
        assert torch.allclose(tensor.double(), shared_weights[name].double(), atol=1e-6, rtol=rounding), name


@pytest.mark.slow
def test_the_stage_launches_itself_and_one_process_reports(work: Path) -> None:
    done = run(work, "-m", "stages.train", launcher=f"{sys.executable} {' '.join(TWO_PROCESSES)}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch ") == 2
    assert "2 x CPU" in (work / "artifacts" / "training" / "base.json").read_text()
    assert len(results(work)[0]) == 2
    assert list((work / "resume").glob("*")) == []


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_evenly_is_one_line(work: Path) -> None:
    params = yaml.safe_load((work / "params.yaml").read_text())
    params["train"]["batch_size"] = 15
    (work / "params.yaml").write_text(yaml.safe_dump(params))
    done = run(work, *TWO_PROCESSES, "-m", "stages.train")
    assert done.returncode != 0
    assert "train: batch_size must be a multiple of the 2 processes that share a batch, got 15" in done.stderr
    assert not (work / "artifacts").exists()


def test_synchronized_batch_norm_is_batch_norm_in_one_process() -> None:
    torch.manual_seed(0)
    images = torch.randn(6, 3, 5, 5) * 3 + 1
    plain = nn.Sequential(nn.BatchNorm2d(3))
    nn.init.uniform_(plain[0].weight)
    synchronized = nn.Sequential(nn.BatchNorm2d(3))
    synchronized.load_state_dict(plain.state_dict())
    synchronize_batch_norm(synchronized)
    assert isinstance(synchronized[0], SynchronizedBatchNorm)
    for model in (plain, synchronized):
        (model(images) ** 3).sum().backward()
    for (name, one), other in zip(plain.state_dict().items(), synchronized.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name
    for one, other in zip(plain.parameters(), synchronized.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-4)
    assert torch.allclose(plain.eval()(images), synchronized.eval()(images), atol=1e-5)


def test_synchronizing_keeps_the_names_of_all_tensors(tiny: GoogLeNet) -> None:
    before = dict(tiny.state_dict())
    synchronize_batch_norm(tiny)
    after = tiny.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_one_process_needs_no_others() -> None:
    assert from_first("value") == "value"
    assert any_of_them(True) and not any_of_them(False)


def test_a_launcher_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv(LAUNCHER, "no-such-torchrun --nproc-per-node 2")
    with pytest.raises(ValueError, match=r"TRAIN_LAUNCHER must be a command such as .* got 'no-such-torchrun"):
        relaunch("stages.train")


def test_a_process_that_was_launched_does_not_launch_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCHER, "no-such-torchrun")
    monkeypatch.setenv("LOCAL_RANK", "0")
    relaunch("stages.train")
