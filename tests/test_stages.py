"""What the stages that train hand to the training loop."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from stages import distill, finetune, sparsify, train
from stages.lib.images import Images
from stages.lib.network.checkpoint import load_model, save_model
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.params import load_params
from stages.lib.pruning.sparsity import RisingSparsity
from stages.lib.training import fit as training

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: GoogLeNet, images: Images) -> Path:
    """A work tree with images, a base and its compressed models, each of another output bias."""
    monkeypatch.chdir(tmp_path)
    set_params(data={"val_per_class": 3})
    Path("data").mkdir()
    np.savez("data/train.npz", images=images.pixels, labels=images.labels, classes=np.array(images.classes))
    names = ["models/base", "compressed/structured", "compressed/unstructured", "compressed/lowrank"]
    for number, name in enumerate(names):
        torch.nn.init.constant_(tiny.linear.bias, number)
        save_model(tiny, Path(f"artifacts/{name}.safetensors"))
    zeros = {"zeros": {"start": 0.5, "end": 0.8, "scope": "layer"}}
    Path("artifacts/compression").mkdir()
    for name in ("structured", "unstructured", "lowrank"):
        facts = {"widths": [], **(zeros if name == "unstructured" else {})}
        Path(f"artifacts/compression/{name}.json").write_text(json.dumps(facts))
    return tmp_path


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `fit` was called with, instead of calling it, and the name of what was written."""
    calls: list[dict[str, Any]] = []

    def fit(model: GoogLeNet, train: Images, val: Images, **options: Any) -> None:
        calls.append({"model": model, "num_train": len(train), "num_val": len(val), **options})

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(training, "write_trained", lambda _, name: calls[-1].update(name=name))
    return calls


def set_params(**changes: dict[str, Any]) -> None:
    """The demo's parameters but for `changes`, section by section."""
    params = load_params(ROOT / "presets" / "demo.yaml", complete=False).model_dump(mode="json")
    for section, values in changes.items():
        params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def bias(model: GoogLeNet) -> float:
    """Which model it is."""
    return model.linear.bias[0].item()


def test_training_may_begin_with_an_earlier_model(fitted: list[dict[str, Any]], tiny: GoogLeNet) -> None:
    set_params(data={"val_per_class": 3}, train={"seed": 5, "start": "earlier.safetensors"})
    save_model(tiny, Path("external/checkpoints/earlier.safetensors"))
    train.main()
    assert torch.equal(fitted[0]["model"].stem[0][0].weight, tiny.stem[0][0].weight.half().float())
    assert not torch.equal(fitted[0]["model"].linear.weight, tiny.linear.weight)


def test_training_may_begin_with_a_model_that_only_git_has(fitted: list[dict[str, Any]], tiny: GoogLeNet) -> None:
    save_model(tiny, Path("old/model"))
    for command in ("init", "add old", "-c user.name=a -c user.email=a@b commit -m old", "rm old/model"):
        subprocess.run(["git", *command.split()], check=True, capture_output=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:10]
    set_params(data={"val_per_class": 3}, train={"start": f"{commit}:old/model"})
    train.main()
    stored = tiny.stem[0][0].weight.half().float()
    assert torch.equal(fitted[0]["model"].stem[0][0].weight, stored)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("earlier.safetensors", "a file in external/checkpoints/, found no .*; copy it there"),
        ("0123456:old/model", "a file in this repository's history, found no 0123456:old/model .*; in a shallow clone"),
    ],
)
def test_a_missing_start_is_one_line_that_says_where_it_belongs(start: str, message: str) -> None:
    set_params(data={"val_per_class": 3}, train={"start": start})
    with pytest.raises(ValueError, match=rf"train\.start must name {message}"):
        train.main()


@pytest.mark.parametrize("scope", ["global", "lamp"])
def test_pruning_tells_of_layers_that_zeros_leave_empty(capsys: pytest.CaptureFixture[str], scope: str) -> None:
    changes = {"sparsity": 0.3, "sparsity_scope": scope, "start_sparsity": 0.1, "batch_norm_images": 0}
    set_params(data={"val_per_class": 3}, prune=changes)
    base = load_model(Path("artifacts/models/base.safetensors"))
    base.linear.weight.data *= 1e-6
    save_model(base, Path("artifacts/models/base.safetensors"))
    sparsify.main()
    warning = "prune.sparsity 0.3 leaves no weight in linear; with sparsity_scope lamp each keeps some\n"
    assert (warning in capsys.readouterr().out) == (scope == "global")


@pytest.mark.parametrize(("number", "name"), [(1, "structured"), (2, "unstructured"), (3, "lowrank")])
def test_fine_tuning_gets_its_model_the_base_as_teacher_and_its_zeros(
    fitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", name])
    finetune.main()
    (call,) = fitted
    assert (call["name"], bias(call["model"]), bias(call["teacher"])) == (name, number, 0)
    assert (call["num_train"], call["num_val"], call["evaluate_first"]) == (21, 9, True)
    assert call["mask_schedule"] == (RisingSparsity(0.5, 0.8, "layer") if name == "unstructured" else None)


@pytest.mark.parametrize("round_to", [None, 4])
def test_a_student_is_narrower_rounded_and_taught_by_the_base(
    fitted: list[dict[str, Any]], tiny: GoogLeNet, round_to: int | None
) -> None:
    student = {"width": 0.5, "round_to": round_to, "start": "base"}
    set_params(data={"val_per_class": 3}, distill=student | {"reconstruction_images": 0})
    distill.main()
    (call,) = fitted
    before, after = (model.architecture.widths for model in (tiny, call["model"]))
    assert (call["name"], bias(call["model"]), bias(call["teacher"])) == ("distilled", 0, 0)
    assert sum(after) < sum(before)
    assert all(width % (round_to or 1) == 0 or width == old for width, old in zip(after, before, strict=True))
    if round_to is None:
        assert after == tuple(int(width * 0.5) for width in before)
    assert call["evaluate_first"]


def test_a_student_that_starts_from_the_base_is_fitted_to_it_where_asked_for(
    fitted: list[dict[str, Any]],
) -> None:
    for num_images in (0, 8):
        student = {"width": 0.5, "round_to": None, "start": "base", "reconstruction_images": num_images}
        set_params(data={"val_per_class": 3}, distill=student)
        distill.main()
    as_it_was, fit_to_base = (call["model"] for call in fitted)
    assert as_it_was.architecture == fit_to_base.architecture
    assert (bias(as_it_was) != 0, bias(fit_to_base) != 0) == (False, True)


def test_a_student_from_scratch_takes_over_the_normalization_alone(
    fitted: list[dict[str, Any]], tiny: GoogLeNet
) -> None:
    set_params(data={"val_per_class": 3}, distill={"width": 0.5, "start": "scratch"})
    distill.main()
    student = fitted[0]["model"]
    assert torch.equal(student.mean, tiny.mean) and torch.equal(student.std, tiny.std)
    assert not fitted[0]["evaluate_first"]
    assert 0 < student.linear.bias.abs().max() < 1  # drawn at random
