"""Muon, the optimizer of convolutions."""

import pytest
import torch

from stages.lib.images import Images
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.pruning.sparsity import RisingSparsity
from stages.lib.pruning.weights import prune_weights
from stages.lib.schema import Compute, Params, Recipe
from stages.lib.training.muon import Muon, orthogonalize
from stages.lib.training.step import Run

CPU = Compute(device="cpu", precision="fp32")


@pytest.fixture
def recipe(demo: Params) -> Recipe:
    """Two epochs of three steps, the convolutions by Muon."""
    changes = {"epochs": 2, "batch_size": 10, "image_sizes": {8: 1}, "lr": 0.1, "muon_lr": 0.02}
    return demo.train.model_copy(update=changes)


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


def test_a_step_is_that_of_the_published_rule_relative_to_a_norm_that_stays() -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 2, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    expected, buffer, norm = weight.detach().clone(), torch.zeros_like(weight), weight.detach().norm()
    muon = Muon([weight], lr=0.1, momentum=0.9, dtype=torch.float32)
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        buffer = 0.9 * buffer + weight.grad
        direction = orthogonalize((weight.grad + 0.9 * buffer).reshape(12, 8), torch.float32).view(12, 2, 2, 2)
        expected = expected - 0.1 * norm / 8**0.5 * direction
        expected *= norm / expected.norm()
        muon.step()
        assert torch.allclose(weight, expected, atol=1e-6)
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_step_turns_a_weight_by_the_rate_whatever_its_norm(scale: float) -> None:
    torch.manual_seed(0)
    before = scale * torch.randn(16, 8, 3, 3)
    weight = before.clone().requires_grad_()
    weight.grad = torch.randn_like(before)
    Muon([weight], lr=0.1, momentum=0.0, dtype=torch.float32).step()
    assert ((weight - before).norm() / before.norm()).item() == pytest.approx(0.1, rel=0.2)


def test_a_weight_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 8, 1, 1, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    Muon([weight], lr=0.1, momentum=0.9, dtype=torch.float32).step()
    assert not weight.any()


def test_norms_stay_put_over_200_steps_zeros_or_not(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    longer = recipe.model_copy(update={"epochs": 67})
    for model, zeros in (
        (tiny, None),
        (prune_weights(tiny, sparsity=0.8, scope="layer"), RisingSparsity(0.8, 0.8, "layer")),
    ):
        run = Run(model, images, compute=CPU, recipe=longer, mask_schedule=zeros)
        convolutions = [weight for weight in run.model.parameters() if weight.dim() == 4]
        before = [weight.detach().clone() for weight in convolutions]
        for step in range(200):
            run.train_step(step)
        for weight, old in zip(convolutions, before, strict=True):
            assert weight.norm().item() == pytest.approx(old.norm().item(), rel=2e-3)
            assert not torch.allclose(weight, old)


def test_masks_apply_before_updates_are_made_orthogonal(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    run = Run(tiny, images, compute=CPU, recipe=recipe, mask_schedule=RisingSparsity(0.0, 0.8, "layer"))
    for step in range(6):
        run.train_step(step)
    muon = run.optimizers[1]
    zeros = 0
    for weight in muon.param_groups[0]["params"]:
        gone = weight == 0
        zeros += int(gone.sum())
        assert not weight.grad[gone].any()
        assert not muon.state[weight]["momentum_buffer"][gone].any()
    assert zeros


def test_convolutions_alone_are_trained_by_muon(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    run = Run(tiny, images, compute=CPU, recipe=recipe)
    sgd, muon = run.optimizers
    by_sgd, by_muon = ([weight for group in each.param_groups for weight in group["params"]] for each in (sgd, muon))
    assert {weight.dim() for weight in by_muon} == {4}
    assert {weight.dim() for weight in by_sgd} == {1, 2}
    assert len(by_sgd) + len(by_muon) == len(list(tiny.parameters()))
    for step in (0, 4):
        run.train_step(step)
        assert {group["lr"] for group in sgd.param_groups} == {run.lr(step)}
        assert [group["lr"] for group in muon.param_groups] == pytest.approx([run.lr(step) / 5])


def test_without_it_the_rate_is_that_of_the_schedule_to_the_last_bit(
    tiny: GoogLeNet, images: Images, recipe: Recipe
) -> None:
    run = Run(tiny, images, compute=CPU, recipe=recipe.model_copy(update={"muon_lr": None}))
    (sgd,) = run.optimizers
    run.train_step(1)
    assert {group["lr"] for group in sgd.param_groups} == {run.lr(1)}


def test_its_momentum_is_part_of_the_state(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    whole = Run(tiny, images, compute=CPU, recipe=recipe)
    whole.train_step(0)
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    assert sum(name.startswith("momentum.") for name in saved) == len(list(tiny.parameters()))
    whole.train_step(1)
    resumed = Run(tiny, images, compute=CPU, recipe=recipe)
    resumed.restore(saved)
    resumed.train_step(1)
    for name, tensor in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], tensor), name
