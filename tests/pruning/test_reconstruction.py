"""Fitting what pruning left to what was there before."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.lib.network.googlenet import GoogLeNet
from stages.lib.pruning import reconstruction
from stages.lib.pruning.reconstruction import reconstruct
from stages.lib.pruning.weights import prune_weights


def test_a_network_that_lost_nothing_stays_as_it_is(tiny: GoogLeNet) -> None:
    fitted = reconstruct(tiny, tiny, torch.rand(16, 3, 32, 32))
    images = torch.rand(4, 3, 32, 32)
    assert torch.allclose(fitted(images), tiny(images), atol=1e-4)


def test_layers_with_a_stride_are_fitted_too(tiny: GoogLeNet) -> None:
    model = GoogLeNet(replace(tiny.architecture, stem_stride=4))
    model.load_state_dict(tiny.state_dict())
    pruned = prune_weights(model.eval(), sparsity=0.5)
    images, others = torch.rand(64, 3, 64, 64).split(48)
    fitted = reconstruct(model, pruned, images)
    assert (fitted(others) - model(others)).norm() < 0.5 * (pruned(others) - model(others)).norm()


def test_zeros_stay_and_the_rest_comes_nearer_to_the_original(tiny: GoogLeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "BATCH_SIZE", 20)  # 48 images are three batches
    pruned = prune_weights(tiny, sparsity=0.5)
    before = copy.deepcopy(pruned)
    images, others = torch.rand(64, 3, 32, 32).split(48)
    fitted = reconstruct(tiny, pruned, images)
    assert (fitted(others) - tiny(others)).norm() < 0.5 * (pruned(others) - tiny(others)).norm()
    for layer, unfitted, unchanged in zip(fitted.modules(), pruned.modules(), before.modules(), strict=True):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert torch.equal(layer.weight == 0, unfitted.weight == 0)
            assert torch.equal(unfitted.weight, unchanged.weight)


def test_a_layer_keeps_its_mean_with_a_bias_and_without(tiny: GoogLeNet) -> None:
    pruned, images = prune_weights(tiny, sparsity=0.5), torch.rand(32, 3, 32, 32)
    fitted = reconstruct(tiny, pruned, images)

    def means(model: GoogLeNet, name: str) -> Tensor:
        found: list[Tensor] = []
        layer = model.get_submodule(f"{name}.1")  # the batch normalization
        handle = layer.register_forward_hook(lambda *event: found.append(event[2].mean(dim=(0, 2, 3))))
        model(images)
        handle.remove()
        return found[0]

    for name in ("stem.0", "stem.2", "blocks.0.branch1"):  # those of the stem have no biases
        assert not torch.allclose(means(pruned, name), means(tiny, name), atol=1e-2)
        assert torch.allclose(means(fitted, name), means(tiny, name), atol=1e-4)


def test_a_channel_takes_over_from_its_removed_twin(tiny: GoogLeNet) -> None:
    with torch.no_grad():
        for parameter in (*tiny.stem[0].parameters(), tiny.stem[0][1].running_mean, tiny.stem[0][1].running_var):
            parameter[1] = parameter[0]
    pruned = copy.deepcopy(tiny)
    with torch.no_grad():
        pruned.stem[1][0].weight[:, 1] = 0
    fitted = reconstruct(tiny, pruned, torch.rand(32, 3, 32, 32)).stem[1][0].weight
    expected = tiny.stem[1][0].weight[:, :2].sum(dim=1)
    assert (fitted[:, 0] - expected).norm() < 0.05 * (tiny.stem[1][0].weight[:, 0] - expected).norm()
    assert torch.equal(fitted[:, 1], torch.zeros_like(fitted[:, 1]))


def test_weights_that_the_images_do_not_determine_stay(tiny: GoogLeNet) -> None:
    pruned = prune_weights(tiny, sparsity=0.5)
    fitted = reconstruct(tiny, pruned, torch.rand(1, 3, 32, 32))  # the linear layer reads one row of numbers
    assert torch.allclose(fitted.linear.weight, pruned.linear.weight, atol=1e-4)
    assert all(parameter.isfinite().all() for parameter in fitted.parameters())


@pytest.mark.parametrize("ridge", [0.01, 0.0, -1.0])  # the last two leave equations without a solution
def test_weights_that_read_a_dead_layer_stay(tiny: GoogLeNet, monkeypatch: pytest.MonkeyPatch, ridge: float) -> None:
    monkeypatch.setattr(reconstruction, "RIDGE", ridge)
    dead = tiny.stem[1][1]
    nn.init.zeros_(dead.weight)
    nn.init.constant_(dead.bias, -1)
    pruned = prune_weights(tiny, sparsity=0.5, scope="lamp")
    fitted = reconstruct(tiny, pruned, torch.rand(8, 3, 32, 32))
    assert torch.allclose(fitted.stem[2][0].weight, pruned.stem[2][0].weight, atol=1e-6)
    assert all(tensor.isfinite().all() for tensor in fitted.state_dict().values())
