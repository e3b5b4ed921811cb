"""Muon, the optimizer of convolutions."""

import pytest
import torch

from stages.lib.data import Images
from stages.lib.googlenet import GoogLeNet
from stages.lib.muon import Muon, orthogonalize
from stages.lib.params import Params, Recipe
from stages.lib.run import Run


@pytest.fixture
def recipe(demo: Params) -> Recipe:
    """Two epochs of three steps, the convolutions by Muon."""
    changes = {"device": "cpu", "epochs": 2, "batch_size": 10, "image_sizes": {8: 1}, "lr": 0.1, "muon_lr": 0.02}
    return demo.train.model_copy(update=changes | {"weight_decay": 0.5})


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonal_keeps_the_singular_vectors_and_levels_the_values(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(side, 6)).Q for side in shape)
    matrix = u @ torch.diag(torch.tensor([1.0, 0.8, 0.6, 0.5, 0.4, 0.3])) @ v.T
    result = orthogonalize(1e-3 * matrix, dtype)
    assert result.dtype == torch.float32 and result.shape == shape
    inner = u.T @ result @ v
    assert (inner - torch.diag(inner.diag())).abs().max() < 0.05
    assert inner.diag().min() > 0.6 and inner.diag().max() < 1.3
    assert (result - u @ inner @ v.T).abs().max() < 0.05


def test_no_gradient_is_no_update() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 4), torch.float32), torch.zeros(3, 4))


def test_a_step_is_that_of_the_published_rule() -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 2, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    expected, buffer = weight.detach().clone(), torch.zeros_like(weight)
    muon = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5, dtype=torch.float32)
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        buffer = 0.9 * buffer + weight.grad
        direction = orthogonalize((weight.grad + 0.9 * buffer).reshape(12, 8), torch.float32).view(12, 2, 2, 2)
        expected = (1 - 0.1 * 0.5) * expected - 0.1 * (12 / 8) ** 0.5 * direction
        muon.step()
        assert torch.allclose(weight, expected, atol=1e-6)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_wide_weight_moves_by_the_rate_itself() -> None:
    weight = torch.zeros(2, 8, 1, 1, requires_grad=True)
    weight.grad = torch.eye(2, 8).view(2, 8, 1, 1)
    Muon([weight], lr=0.1, momentum=0.0, weight_decay=0.0, dtype=torch.float32).step()
    assert torch.linalg.matrix_norm(weight.detach().view(2, 8), 2) == pytest.approx(0.1, rel=0.4)


def test_convolutions_alone_are_trained_by_muon(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    run = Run(tiny, images, recipe=recipe)
    sgd, muon = run.optimizers
    by_sgd, by_muon = ([weight for group in each.param_groups for weight in group["params"]] for each in (sgd, muon))
    assert {weight.dim() for weight in by_muon} == {4}
    assert {weight.dim() for weight in by_sgd} == {1, 2}
    assert len(by_sgd) + len(by_muon) == len(list(tiny.parameters()))
    assert [group["weight_decay"] for group in muon.param_groups] == [0.5]
    for step in (0, 4):
        run.train_step(step)
        assert {group["lr"] for group in sgd.param_groups} == {run.lr(step)}
        assert [group["lr"] for group in muon.param_groups] == pytest.approx([run.lr(step) / 5])


def test_without_it_the_rate_is_that_of_the_schedule_to_the_last_bit(
    tiny: GoogLeNet, images: Images, recipe: Recipe
) -> None:
    run = Run(tiny, images, recipe=recipe.model_copy(update={"muon_lr": None}))
    (sgd,) = run.optimizers
    run.train_step(1)
    assert {group["lr"] for group in sgd.param_groups} == {run.lr(1)}


def test_its_momentum_is_part_of_the_state(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    whole = Run(tiny, images, recipe=recipe)
    whole.train_step(0)
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    assert sum(name.startswith("momentum.") for name in saved) == len(list(tiny.parameters()))
    whole.train_step(1)
    resumed = Run(tiny, images, recipe=recipe)
    resumed.restore(saved)
    resumed.train_step(1)
    for name, tensor in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], tensor), name
