"""Structured and unstructured pruning."""

from typing import Any

import pytest
import torch
from torch import nn

from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
from stages.lib.pruning import batch_norm
from stages.lib.pruning.batch_norm import reestimate_batch_norm
from stages.lib.pruning.channels import prune_channels
from stages.lib.pruning.weights import prune_weights


def test_structured_pruning_of_the_full_network_leaves_4_089_523_parameters() -> None:
    full = GoogLeNet(Architecture(scaled_widths(1.0), num_classes=100, stem_pool=True, dropout=0.0))
    pruned = prune_channels(full, ratio=0.2, round_to=None)
    assert sum(parameter.numel() for parameter in pruned.parameters()) == 4_089_523
    assert sum(parameter.numel() for parameter in full.parameters()) == 6_402_564


def test_round_to_keeps_multiples() -> None:
    model = GoogLeNet(Architecture(scaled_widths(1.0), num_classes=3, stem_pool=True, dropout=0.0))
    pruned = prune_channels(model, ratio=0.2, round_to=8)
    assert {width % 8 for width in pruned.architecture.widths} == {0}


def test_round_to_takes_the_nearest_multiple() -> None:
    model = GoogLeNet(Architecture(scaled_widths(1.0), num_classes=100, stem_pool=True, dropout=0.0))
    before, after = (network.architecture.widths for network in (model, prune_channels(model, ratio=0.2, round_to=16)))
    exact = [0.8 * width for width in before]
    assert all(abs(kept - width) <= 8 for kept, width in zip(after, exact, strict=True))
    assert sum(after) == pytest.approx(sum(exact), rel=0.02)


def test_round_to_leaves_each_layer_a_group_or_all_that_it_has(tiny: GoogLeNet) -> None:
    before = tiny.architecture.widths
    after = prune_channels(tiny, ratio=0.5, round_to=4).architecture.widths
    assert min(before) < 4 < max(before)
    assert after == tuple(min(width, max(4, (width // 2 + 2) // 4 * 4)) for width in before)


def test_round_to_keeps_to_the_most_that_a_layer_may_lose(tiny: GoogLeNet) -> None:
    before = tiny.architecture.widths
    after = prune_channels(tiny, ratio=0.4, round_to=2, scope="global", max_ratio=0.5).architecture.widths
    assert all(2 * kept >= width for kept, width in zip(after, before, strict=True))
    assert all(kept % 2 == 0 or kept == width for kept, width in zip(after, before, strict=True))
    assert sum(after) < sum(before)


def test_channels_of_smallest_norm_go_first(tiny: GoogLeNet) -> None:
    scale = torch.tensor([0.001, 1, 0.001, 1, 0.001, 1])
    with torch.no_grad():  # the first convolution, its normalization, and what reads its channels
        tiny.stem[0][0].weight *= scale.view(6, 1, 1, 1)
        tiny.stem[0][1].weight *= scale
        tiny.stem[1][0].weight *= scale.view(1, 6, 1, 1)
    pruned = prune_channels(tiny, ratio=0.5, round_to=None)
    assert torch.equal(pruned.stem[0][0].weight, tiny.stem[0][0].weight[[1, 3, 5]])


def test_a_ratio_reached_by_floats_that_round_down_takes_no_channel_more(tiny: GoogLeNet) -> None:
    thirds = prune_channels(tiny, ratio=0.2 * 3 / 3, round_to=None)  # 0.20000000000000004
    assert thirds.architecture == prune_channels(tiny, ratio=0.2, round_to=None).architecture


def test_nothing_is_removed_at_ratio_zero(tiny: GoogLeNet) -> None:
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(prune_channels(tiny, ratio=0.0, round_to=None)(images), tiny(images))
    assert torch.equal(prune_weights(tiny, sparsity=0.0)(images), tiny(images))


def test_an_impossible_structured_budget_is_an_error(tiny: GoogLeNet) -> None:
    with pytest.raises(
        ValueError, match=r"prune\.ratio must leave a channel in every layer, got 0\.95 for a layer of "
    ):
        prune_channels(tiny, ratio=0.95, round_to=None)


def test_unstructured_pruning_zeroes_the_share_asked_for(tiny: GoogLeNet) -> None:
    pruned = prune_weights(tiny, sparsity=0.8)
    weights = torch.cat([m.weight.flatten() for m in pruned.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    before = torch.cat([m.weight.flatten() for m in tiny.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    assert abs((weights == 0).float().mean().item() - 0.8) < 1e-3
    assert before[weights == 0].abs().max() <= before[weights != 0].abs().min()  # one threshold for all layers
    assert set(pruned.state_dict()) == set(tiny.state_dict())


def test_unstructured_pruning_of_each_layer_zeroes_the_same_share_of_all(tiny: GoogLeNet) -> None:
    pruned = prune_weights(tiny, sparsity=0.5, scope="layer")
    for module in pruned.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert abs((module.weight == 0).float().mean().item() - 0.5) < 0.5 / module.weight.numel() + 1e-6


@pytest.mark.parametrize("importance", ["magnitude", "bn_scale", "taylor"])
def test_global_pruning_takes_the_share_asked_for_and_spares_each_layer(tiny: GoogLeNet, importance: Any) -> None:
    examples = (torch.rand(12, 3, 32, 32), torch.arange(12) % 3)
    pruned = prune_channels(
        tiny, ratio=0.4, round_to=None, scope="global", max_ratio=0.7, importance=importance, examples=examples
    )
    before, after = tiny.architecture.widths, pruned.architecture.widths
    assert sum(after) == pytest.approx(0.6 * sum(before), abs=1)
    shares = [kept / width for kept, width in zip(after, before, strict=True)]
    assert min(shares) >= 0.3
    assert max(shares) > 0.7  # not the same of every layer


def test_global_pruning_takes_the_channels_of_smallest_scale_wherever_they_are(tiny: GoogLeNet) -> None:
    with torch.no_grad():
        tiny.stem[2][1].weight[:9] = 1e-6
        tiny.stem[2][0].weight[:9] *= 100  # their weights are large
    before = tiny.architecture.widths
    pruned = prune_channels(
        tiny, ratio=9 / sum(before), round_to=None, scope="global", max_ratio=0.9, importance="bn_scale"
    )
    assert pruned.architecture.widths == (*before[:2], before[2] - 9, *before[3:])
    assert torch.equal(pruned.stem[2][1].weight, tiny.stem[2][1].weight[9:])


def test_channels_whose_loss_would_cost_most_stay(tiny: GoogLeNet) -> None:
    with torch.no_grad():  # channels that no later layer reads have no influence on the loss
        tiny.stem[1][0].weight[:, [0, 2, 4]] = 0
    examples = (torch.rand(12, 3, 32, 32), torch.arange(12) % 3)
    pruned = prune_channels(tiny, ratio=0.5, round_to=None, importance="taylor", examples=examples)
    assert torch.equal(pruned.stem[0][0].weight, tiny.stem[0][0].weight[[1, 3, 5]])


def test_a_fitted_network_is_of_the_same_widths_and_nearer_to_the_original(tiny: GoogLeNet) -> None:
    images, others = torch.rand(64, 3, 32, 32).split(48)
    cut, fitted = (prune_channels(tiny, ratio=0.3, round_to=None, refit_on=x) for x in (None, images))
    assert cut.architecture == fitted.architecture

    def distance(pruned: GoogLeNet) -> float:
        return (pruned(others) - tiny(others)).norm().item()

    assert distance(fitted) < 0.5 * distance(cut)
    unfitted = prune_channels(tiny, ratio=0.3, round_to=None, refit_on=images[:0])
    assert torch.equal(unfitted.linear.weight, cut.linear.weight)


def test_batch_normalization_is_measured_anew_in_a_copy(tiny: GoogLeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "BATCH_SIZE", 16)  # 20 images are two even batches, not one of 16 and one of 4
    images = torch.rand(20, 3, 32, 32)
    measured = reestimate_batch_norm(tiny, images)
    first, norm = measured.stem[0][0], measured.stem[0][1]
    outputs = first((images - tiny.mean) / tiny.std)
    assert torch.allclose(norm.running_mean, outputs.mean(dim=(0, 2, 3)), atol=1e-5)
    assert norm.momentum == tiny.stem[0][1].momentum
    assert not torch.equal(norm.running_mean, tiny.stem[0][1].running_mean)
    assert torch.equal(reestimate_batch_norm(tiny, images[:0]).stem[0][1].running_mean, tiny.stem[0][1].running_mean)
