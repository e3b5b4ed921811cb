"""One step of training."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from stages.lib.images import Images
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.pruning.sparsity import RisingSparsity, round_weights
from stages.lib.schema import Compute, Params, Recipe, StudentRecipe
from stages.lib.training import augmentation
from stages.lib.training.distillation import distillation_loss
from stages.lib.training.step import Run

CPU = Compute(device="cpu", precision="fp32")


@pytest.fixture
def recipe(demo: Params) -> Recipe:
    """Two epochs of three steps, mixed images in the first one."""
    settings = demo.train.augmentation.model_copy(update={"cutmix": 1.0, "mix_off_epochs": 1, "crop_padding": 4})
    changes = {"epochs": 2, "batch_size": 10, "warmup_epochs": 1, "image_sizes": {8: 1, 16: 1}}
    return demo.train.model_copy(update=changes | {"augmentation": settings})


@pytest.mark.gpu
def test_a_cuda_graph_trains_as_single_launches_do(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    trained = []
    for cuda_graph in (False, True):
        compute = Compute(device="cuda", precision="fp32", deterministic=True, cuda_graph=cuda_graph)
        training = Run(tiny, images, compute=compute, recipe=recipe)
        for step in range(training.batches.num_steps):  # of two image sizes
            training.train_step(step)
        trained.append(training.tensors())
    launched, replayed = trained
    assert all(torch.allclose(replayed[name], tensor, rtol=1e-3, atol=1e-4) for name, tensor in launched.items())


def test_weights_alone_decay(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    groups = (
        Run(tiny, images, compute=CPU, recipe=recipe.model_copy(update={"weight_decay": 0.5}))
        .optimizers[0]
        .param_groups
    )
    for group in groups:
        assert group["nesterov"] and group["momentum"] == recipe.momentum > 0
        assert {group["weight_decay"]} == {0.5 if weight.dim() > 1 else 0.0 for weight in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(tiny.parameters()))


def test_the_average_follows_the_weights_and_warms_up(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    training = Run(tiny, images, compute=CPU, recipe=recipe.model_copy(update={"ema_decay": 0.15}))
    expected = {name: tensor.clone() for name, tensor in tiny.state_dict().items() if tensor.is_floating_point()}
    for step, decay in enumerate((1 / 10, 0.15, 0.15)):
        training.train_step(step)
        now = training.model.state_dict()
        expected = {name: decay * old + (1 - decay) * now[name] for name, old in expected.items()}
    average = training.average.state_dict()
    assert all(torch.allclose(average[name], tensor, atol=1e-5) for name, tensor in expected.items())


def test_the_loss_is_that_of_smoothed_labels_and_of_the_teacher_at_rest(
    tiny: GoogLeNet, images: Images, recipe: Recipe, demo: Params
) -> None:
    told = demo.finetune.distillation.model_dump() | {"label_weight": 0.5}
    settings = recipe.model_dump(exclude={"start"}) | {"label_smoothing": 0.1, "distillation": told}
    student = StudentRecipe.model_validate(settings)
    training = Run(tiny, images, compute=CPU, recipe=student, teacher=tiny.train())
    pixels, targets = torch.rand(4, 3, 32, 32), torch.eye(3)[[0, 1, 2, 0]]
    logits, teacher_logits = training.model.eval()(pixels), tiny.eval()(pixels)
    labels_loss = functional.cross_entropy(logits, targets, label_smoothing=0.1)
    expected = distillation_loss(logits, teacher_logits.detach(), labels_loss, recipe=student.distillation)
    loss = training._batch_loss(pixels, targets)
    assert torch.allclose(loss, expected)
    gradients = (torch.autograd.grad(value, training.model.linear.weight)[0] for value in (loss, expected))
    assert torch.allclose(*gradients, atol=1e-6)


def test_two_classes_need_a_loss_that_two_logits_can_teach(tiny: GoogLeNet, images: Images, demo: Params) -> None:
    two = replace(images, classes=("ant", "bee"))
    losses = (demo.finetune.distillation.model_copy(update={"loss": loss}) for loss in ("kd", "standardized_kd"))
    recipes = (demo.finetune.model_copy(update={"distillation": loss}) for loss in losses)
    kd, standardized = recipes
    Run(tiny, two, compute=CPU, recipe=kd, teacher=tiny)
    Run(tiny, images, compute=CPU, recipe=standardized, teacher=tiny)
    with pytest.raises(ValueError, match="kd or none for 2 classes, got standardized_kd"):
        Run(tiny, two, compute=CPU, recipe=standardized, teacher=tiny)


def test_every_epoch_shows_each_image_once_in_an_order_of_its_own(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[int], bool, float]] = []

    def augment(_images: Any, _labels: Any, indices: torch.Tensor, *, mix: bool, fill: torch.Tensor, **_: Any) -> Any:
        assert torch.equal(fill, tiny.mean)
        seen.append((indices.tolist(), mix, torch.rand(()).item()))
        return None, None

    monkeypatch.setattr(augmentation, "augment", augment)
    for seed in (0, 1):
        training = Run(tiny, images, compute=CPU, recipe=recipe.model_copy(update={"seed": seed}))
        for step in range(6):
            training.batches.batch(step)
    epochs = [tuple(i for indices, *_ in seen[start : start + 3] for i in indices) for start in range(0, 12, 3)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert len(set(epochs)) == 4
    assert [mix for _, mix, _ in seen[:6]] == [True] * 3 + [False] * 3
    assert len({drawn for *_, drawn in seen}) == 12


def test_a_fraction_of_an_epoch_is_the_first_of_its_batches_and_its_last_are_not_mixed(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = []
    monkeypatch.setattr(augmentation, "augment", lambda *_, mix, **__: mixed.append(mix))
    for epochs, expected in ((1.7, [True, True, True, False, False]), (0.01, [False])):
        training = Run(tiny, images, compute=CPU, recipe=recipe.model_copy(update={"epochs": epochs}))
        for step in range(training.batches.num_steps):
            training.batches.batch(step)
        assert mixed == expected
        mixed.clear()


def test_padding_shrinks_with_the_images(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    paddings, resident = {}, augmentation.resident

    def recorded(pixels: Any, *, size: int, padding: int, device: torch.device) -> torch.Tensor:
        paddings[size] = padding
        return resident(pixels, size=size, padding=padding, device=device)

    monkeypatch.setattr(augmentation, "resident", recorded)
    training = Run(tiny, images, compute=CPU, recipe=recipe)
    for step in (0, 5):
        training.batches.batch(step)
    assert paddings == {8: 1, 16: 2}


def test_the_last_steps_see_rounded_weights_and_the_result_has_them(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    batch_loss = Run._batch_loss

    def distinct(model: GoogLeNet) -> int:
        return max(len(channel.unique()) for channel in model.stem[1][0].weight.detach().flatten(1))

    def recorded(self: Run, *batch: torch.Tensor | None) -> torch.Tensor:
        seen.append(distinct(self.model))
        return batch_loss(self, *batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_batch_loss", recorded)
    schedule = RisingSparsity(0.5, 0.8, "layer", levels=3)
    training = Run(tiny, images, compute=CPU, recipe=recipe, mask_schedule=schedule)
    for step in range(6):
        training.train_step(step)
    assert [count <= 7 for count in seen] == [False] * 4 + [True] * 2
    assert distinct(training.model) > 7  # what is trained stays fine
    assert distinct(training.result(3)) > 7
    result = training.result(6)
    assert distinct(result) <= 7 and result.architecture.weight_levels == 3
    for weight, average in zip(result.parameters(), training.average.parameters(), strict=True):
        assert torch.equal(weight == 0, round_weights(average, levels=3) == 0) if weight.dim() > 1 else True


def test_sparsity_rises_in_each_layer_where_that_is_asked_for(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    training = Run(tiny, images, compute=CPU, recipe=recipe, mask_schedule=RisingSparsity(0.5, 0.8, "layer"))
    for step in range(6):
        training.train_step(step)
    for weight in training.model.parameters():
        if weight.dim() > 1:
            assert abs((weight == 0).float().mean().item() - 0.8) <= 0.5 / weight.numel() + 1e-6
