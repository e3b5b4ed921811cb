"""Sparsity that rises during training."""

import pytest
import torch

from stages.lib.pruning.sparsity import RisingSparsity, magnitude_masks, round_weights


def test_sparsity_rises_fast_at_first_and_settles_half_way() -> None:
    rising = RisingSparsity(0.5, 0.8, "global")
    raised = {step: value for step in range(100) if (value := rising.due(step, 100)) is not None}
    assert raised[0] == 0.5
    assert max(raised) == 50
    assert raised[50] == 0.8
    rises = [after - before for before, after in zip(raised.values(), list(raised.values())[1:], strict=False)]
    assert rises == sorted(rises, reverse=True)


def test_sparsity_follows_a_cubic_curve() -> None:
    assert RisingSparsity(0.5, 0.8, "global").due(16, 64) == pytest.approx(0.8 - 0.3 * 0.5**3)


def test_sparsity_that_stays_moves_no_mask() -> None:
    assert all(RisingSparsity(0.8, 0.8, "global").masks_after(step, 64, []) is None for step in range(64))


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (5, 7)])
def test_rounded_weights_are_whole_multiples_of_a_scale_for_each_output_channel(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    weight[0] = 0
    rounded = round_weights(weight, levels=15)
    assert not rounded[0].any()
    for before, after in zip(weight[1:], rounded[1:], strict=True):
        scale = before.abs().max() / 15
        assert torch.allclose(after / scale, (after / scale).round(), atol=1e-4)
        assert (before - after).abs().max() <= scale / 2 + 1e-6 and after.abs().max() == pytest.approx(
            15 * scale.item()
        )


def test_a_training_of_one_step_is_enough_to_reach_the_end() -> None:
    assert RisingSparsity(0.0, 0.8, "global").due(0, 1) == 0.8


@pytest.mark.parametrize(("scope", "zeros"), [("global", [4, 0]), ("layer", [2, 2])])
def test_masks_take_the_smallest_of_all_layers_or_of_each(scope: str, zeros: list[int]) -> None:
    weights = [torch.tensor([0.1, -0.2, 0.3, -0.4]), torch.tensor([5.0, -6.0, 7.0, 8.0])]
    masks = magnitude_masks(weights, sparsity=0.5, scope=scope)  # type: ignore[arg-type]
    assert [int((mask == 0).sum()) for mask in masks] == zeros
    assert masks[0][0] == 0


def test_lamp_counts_a_weight_by_the_larger_ones_of_its_layer_whatever_the_scale() -> None:
    weights = [torch.tensor([1.0, -2.0, 3.0, -4.0]), torch.tensor([[1.0, 1.0], [1.0, 9.0]])]
    scores = [[1 / 30, 4 / 29, 9 / 25, 1.0], [1 / 84, 1 / 83, 1 / 82, 1.0]]  # of equals, one counts as larger
    order = sorted(score for layer in scores for score in layer)
    for num_zeros in range(7):
        expected = [[float(score > order[num_zeros - 1]) if num_zeros else 1.0 for score in layer] for layer in scores]
        for scale in (1.0, 1000.0):
            masks = magnitude_masks([scale * weights[0], weights[1]], sparsity=num_zeros / 8, scope="lamp")
            assert [sorted(mask.flatten().tolist()) for mask in masks] == [sorted(layer) for layer in expected]
            assert masks[1].shape == (2, 2)
    assert masks[0][3] == masks[1][1, 1] == 1


def test_lamp_has_scores_for_a_layer_of_zeros() -> None:
    masks = magnitude_masks([torch.zeros(4), torch.ones(4)], sparsity=0.5, scope="lamp")
    assert [mask.tolist() for mask in masks] == [[0] * 4, [1] * 4]


def test_no_sparsity_masks_nothing() -> None:
    assert magnitude_masks([torch.zeros(3)], sparsity=0.0, scope="global")[0].tolist() == [1, 1, 1]
