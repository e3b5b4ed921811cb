"""Structured pruning in steps, with training between them."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from stages.lib.images import Images
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.params import Params, Prune, StudentRecipe
from stages.lib.pruning import channels as pruning
from stages.lib.training import fit as training
from stages.lib.training import step as run
from stages.lib.training.fit import Trained
from stages.lib.training.resume import ResumeFile
from stages.prune import prune_structured


@pytest.fixture
def prune(demo: Params) -> Prune:
    """A training before two steps, and one between them."""
    changes: dict[str, Any] = {"ratio": 0.2, "steps": 2, "step_epochs": 1, "sparsify_epochs": 1}
    return demo.prune.model_copy(update=changes)


@pytest.fixture
def recipe(demo: Params) -> StudentRecipe:
    """Two steps an epoch."""
    changes: dict[str, Any] = {"device": "cpu", "batch_size": 15, "image_sizes": {8: 1}}
    return demo.finetune.model_copy(update=changes)


@pytest.fixture
def forbid_training(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What makes every further step of training fail."""

    def train_step(_: run.Run, step: int) -> None:
        raise AssertionError(f"step {step} is trained")

    return lambda: monkeypatch.setattr(run.Run, "train_step", train_step)


def test_what_was_trained_is_not_trained_again_until_the_model_is_written(
    tiny: GoogLeNet, images: Images, prune: Prune, recipe: StudentRecipe, forbid_training: Any
) -> None:
    first, resume_files = prune_structured(tiny, images, images, prune=prune, recipe=recipe)
    assert [file.path.exists() for file in resume_files] == [True, True]
    forbid_training()
    again, _ = prune_structured(tiny, images, images, prune=prune, recipe=recipe)
    assert again.architecture == first.architecture
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


def test_each_training_and_each_step_gets_its_settings(
    tiny: GoogLeNet, images: Images, prune: Prune, recipe: StudentRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    val = images.take(np.arange(3))

    def fit(model: GoogLeNet, train: Images, validation: Images, **options: Any) -> Trained:
        assert train is images and validation is val
        trainings.append(options)
        trained = copy.deepcopy(model)
        trained.mean += 1  # counts the trainings
        return Trained(trained, [], {}, ResumeFile("x"))

    def prune_channels(model: GoogLeNet, **options: Any) -> GoogLeNet:
        steps.append({"trainings": round((model.mean - tiny.mean).max().item()), **options})
        return original(model, **options)

    original = pruning.prune_channels
    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(pruning, "prune_channels", prune_channels)
    changes = {"importance": "bn_scale", "scope": "global", "max_ratio": 0.7, "round_to": 2, "sparsify_weight": 0.3}
    longer = recipe.model_copy(update={"epochs": 9, "warmup_epochs": 3})
    settings = prune.model_copy(update=changes | {"sparsify_epochs": 2})
    pruned, _ = prune_structured(tiny, images, val, prune=settings, recipe=longer)
    assert [(each["recipe"].epochs, each["recipe"].warmup_epochs) for each in trainings] == [(2, 1), (1, 0.5)]
    assert [each["scale_penalty"] for each in trainings] == [0.3, 0.0]
    assert all(each["teacher"] is tiny for each in trainings)
    assert [(each["trainings"], each["ratio"]) for each in steps] == [(0, 0.2), (1, 0.1), (2, 0.2)]
    assert {(each["scope"], each["max_ratio"], each["round_to"]) for each in steps} == {("global", 0.7, 2)}
    assert {each.get("importance", "bn_scale") for each in steps} == {"bn_scale"}
    assert torch.allclose(pruned.mean, tiny.mean + 2)


def test_an_impossible_ratio_is_named_before_any_training(
    tiny: GoogLeNet, images: Images, prune: Prune, recipe: StudentRecipe, forbid_training: Any
) -> None:
    forbid_training()
    impossible = prune.model_copy(update={"ratio": 0.95})
    with pytest.raises(ValueError, match=r"prune\.ratio must leave a channel in every layer, got 0\.95 for"):
        prune_structured(tiny, images, images, prune=impossible, recipe=recipe)


def test_steps_reach_a_ratio_that_is_the_most_that_a_layer_may_lose(
    tiny: GoogLeNet, images: Images, prune: Prune, recipe: StudentRecipe
) -> None:
    assert 0.2 * 3 / 3 > 0.2
    changes = {"scope": "global", "max_ratio": 0.2, "steps": 3, "sparsify_epochs": 0}
    pruned, _ = prune_structured(tiny, images, images, prune=prune.model_copy(update=changes), recipe=recipe)
    assert sum(pruned.architecture.widths) < sum(tiny.architecture.widths)
