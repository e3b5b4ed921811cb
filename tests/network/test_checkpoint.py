"""Saving and loading of every kind of model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stages.lib.lowrank import factorize
from stages.lib.network.checkpoint import load_model, load_start, save_model
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.pruning.channels import prune_channels
from stages.lib.pruning.weights import prune_weights


def with_state_of(model: GoogLeNet, **changes: int) -> GoogLeNet:
    """A network of another architecture with the same weights."""
    other = GoogLeNet(replace(model.architecture, **changes))
    other.load_state_dict(model.state_dict())
    return other


KINDS: dict[str, Callable[[GoogLeNet], GoogLeNet]] = {
    "base": lambda model: model,
    "structured": lambda model: prune_channels(model, ratio=0.2, round_to=None),
    "unstructured": lambda model: prune_weights(model, sparsity=0.8),
    "strided": lambda model: with_state_of(model, stem_stride=2),
    "lowrank": lambda model: factorize(
        model, torch.rand(8, 3, 32, 32), macs_ratio=0.8, layers=list(model.layers()), round_to=1
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_reloads_with_its_weights_in_half_precision(tmp_path: Path, tiny: GoogLeNet, kind: str) -> None:
    model = KINDS[kind](tiny)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.architecture == model.architecture
    for name, tensor in model.state_dict().items():
        stored = tensor.half().float() if name.endswith(".weight") and tensor.dim() > 1 else tensor
        assert torch.equal(loaded.state_dict()[name], stored)
    save_model(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


@pytest.mark.parametrize("kind", ["rounded", "too large"])
def test_weights_that_half_precision_would_harm_are_stored_as_they_are(
    tmp_path: Path, tiny: GoogLeNet, kind: str
) -> None:
    if kind == "too large":
        tiny.stem[0][0].weight.data.mul_(1e7)
    model = with_state_of(tiny, weight_levels=7) if kind == "rounded" else tiny
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model").stem[0][0].weight, tiny.stem[0][0].weight)


def test_a_sparse_model_takes_little_more_than_its_nonzero_weights(tmp_path: Path, tiny: GoogLeNet) -> None:
    for kind in ("base", "unstructured"):
        save_model(KINDS[kind](tiny), tmp_path / kind)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["unstructured"] < 0.6 * sizes["base"]
    content = (tmp_path / "unstructured").read_bytes()
    (tmp_path / "unstructured").write_bytes(content.replace(b".nonzero", b".another"))
    with pytest.raises(ValueError, match="must be a model written by this pipeline"):
        load_model(tmp_path / "unstructured")
    (tmp_path / "unstructured").write_bytes(content)
    with safe_open(tmp_path / "unstructured", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata()
    name = next(name for name in tensors if name.endswith(".mask"))
    save_file(tensors | {name: tensors[name][:-1].clone()}, tmp_path / "unstructured", metadata=metadata)
    with pytest.raises(ValueError, match="has a mask of the wrong size"):
        load_model(tmp_path / "unstructured")


def test_same_model_gives_same_bytes_in_any_memory_format(tmp_path: Path, tiny: GoogLeNet) -> None:
    save_model(tiny, tmp_path / "a")
    save_model(tiny.to(memory_format=torch.channels_last), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert list(file.metadata()) == ["architecture"]


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_file_that_is_no_model_is_an_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(ValueError, match="must be a model written by this pipeline") as error:
        load_model(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_another_programs_safetensors_file_is_an_error(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model")
    with pytest.raises(ValueError, match="must be a model written by this pipeline"):
        load_model(tmp_path / "model")


def test_a_model_without_ranks_does_not_mention_them(tmp_path: Path, tiny: GoogLeNet) -> None:
    save_model(tiny, tmp_path / "model")
    with safe_open(tmp_path / "model", framework="pt") as file:
        assert set(json.loads(file.metadata()["architecture"])) == {"widths", "num_classes", "stem_pool", "dropout"}


def test_a_start_has_all_weights_but_those_of_a_new_linear_layer(tmp_path: Path, tiny: GoogLeNet) -> None:
    save_model(tiny, tmp_path / "model")
    torch.manual_seed(1)
    start = load_start(tmp_path / "model", num_classes=7, stem_stride=2, dropout=0.2)
    assert start.eval()(torch.rand(2, 3, 128, 128)).shape == (2, 7)
    assert start.architecture == replace(tiny.architecture, num_classes=7, stem_stride=2, dropout=0.2)
    for name, tensor in tiny.state_dict().items():
        if not name.startswith("linear"):
            torch.testing.assert_close(start.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["factorized", "rounded", "broken"])
def test_a_start_that_training_could_not_go_on_from_is_an_error(tmp_path: Path, tiny: GoogLeNet, kind: str) -> None:
    if kind == "broken":
        tiny.stem[0][0].weight.data[0, 0, 0, 0] = float("nan")
    models = {"factorized": KINDS["lowrank"], "rounded": lambda model: with_state_of(model, weight_levels=7)}
    save_model(models.get(kind, lambda model: model)(tiny), tmp_path / "model")
    allowed = "hold finite weights" if kind == "broken" else "be a model of stage train"
    with pytest.raises(ValueError, match=rf"model must {allowed}, got .*; choose another"):
        load_start(tmp_path / "model", num_classes=7, stem_stride=1, dropout=0.0)
