"""Distillation: the losses, and training with a teacher."""

import copy

import pytest
import torch
from torch.nn import functional

from stages.lib.images import Images
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.schema import Compute, Distillation, Params, StudentRecipe
from stages.lib.training import fit as training
from stages.lib.training.distillation import distillation_loss, standardize

LABELS_LOSS = torch.tensor(3.0)


def settings(loss: str, **changes: float) -> Distillation:
    return Distillation.model_validate({"loss": loss, "temperature": 2, "weight": 9, "label_weight": 0.1, **changes})


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Of a student and of a teacher, (4, 7)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 7, generator=generator).unbind()
    return student, teacher


def test_plain_distillation_is_the_published_formula(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = logits
    p, q = (functional.softmax(values / 2, dim=1) for values in (teacher, student))
    expected = 0.1 * 3.0 + 9 * 4 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(distillation_loss(student, teacher, LABELS_LOSS, recipe=settings("kd")), expected)


def test_standardized_distillation_is_the_published_formula(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = (
        (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True) for values in logits
    )  # fmt: skip
    expected = distillation_loss(student, teacher, LABELS_LOSS, recipe=settings("kd"))
    assert torch.allclose(distillation_loss(*logits, LABELS_LOSS, recipe=settings("standardized_kd")), expected)


def test_standardized_logits_need_not_match_the_range(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = logits
    recipe = settings("standardized_kd")
    one = distillation_loss(student, teacher, LABELS_LOSS, recipe=recipe)
    other = distillation_loss(student, 10 * teacher + 3, LABELS_LOSS, recipe=recipe)
    assert torch.allclose(one, other, rtol=1e-4)
    assert torch.allclose(standardize(teacher).std(1), torch.ones(4))


@pytest.mark.parametrize("loss", ["kd", "standardized_kd"])
def test_a_student_that_agrees_pays_for_its_labels_alone(loss: str, logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    value = distillation_loss(logits[0], logits[0], LABELS_LOSS, recipe=settings(loss))
    assert torch.allclose(value, torch.tensor(0.3))


@pytest.mark.parametrize("loss", ["kd", "standardized_kd"])
def test_a_student_comes_to_agree_with_its_teacher(loss: str, tiny: GoogLeNet, images: Images, demo: Params) -> None:
    teacher = copy.deepcopy(tiny)
    with torch.no_grad():
        teacher.linear.weight.mul_(20)
    before = [tensor.clone() for tensor in teacher.state_dict().values()]
    torch.manual_seed(1)
    student = GoogLeNet(tiny.architecture)
    recipe = StudentRecipe.model_validate(
        demo.finetune.model_dump()
        | {"epochs": 15, "batch_size": 30, "lr": 0.03, "warmup_epochs": 1, "image_sizes": {32: 1}}
        | {"distillation": settings(loss, label_weight=0.0).model_dump()}
    )

    def disagreement(model: GoogLeNet) -> float:
        pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            z = [standardize(net.eval()(pixels)) for net in (model, teacher)]
        return functional.mse_loss(*z).item()

    trained = training.fit(
        student, images, images, compute=Compute(device="cpu", precision="fp32"), recipe=recipe, teacher=teacher
    )
    assert disagreement(trained.model) < 0.5 * disagreement(student)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.state_dict().values(), strict=True))
