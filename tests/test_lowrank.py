"""Low-rank factorization."""

import copy
from dataclasses import replace

import pytest
import torch

from stages.lib.costs import count_macs, count_parameters
from stages.lib.lowrank import Layer, factorize
from stages.lib.network.googlenet import ConvBN, GoogLeNet

ALL = [
    "stem.1", "stem.2", "blocks.0.branch2.1", "blocks.0.branch3.1", "blocks.3.branch1", "blocks.10.branch2.1", "linear",
]  # fmt: skip


@pytest.fixture
def examples() -> torch.Tensor:
    return torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ratio", [0.75, 0.9])
def test_the_budget_is_kept_and_used(tiny: GoogLeNet, examples: torch.Tensor, ratio: float) -> None:
    before = count_macs(tiny, examples[:1])
    macs = count_macs(factorize(tiny, examples, macs_ratio=ratio, layers=ALL, round_to=1), examples[:1])
    assert 0.85 * ratio * before < macs <= ratio * before


@pytest.mark.parametrize("stride", [2, 4])
def test_the_budget_is_kept_where_the_stem_has_a_stride(tiny: GoogLeNet, examples: torch.Tensor, stride: int) -> None:
    model = GoogLeNet(replace(tiny.architecture, stem_stride=stride))
    model.load_state_dict(tiny.state_dict())
    images = torch.nn.functional.interpolate(examples, scale_factor=stride)
    before = count_macs(model, images[:1])
    result = factorize(model, images, macs_ratio=0.8, layers=ALL, round_to=1)
    assert 0.7 * before < count_macs(result, images[:1]) <= 0.8 * before
    with torch.no_grad():
        assert (result(images) - model.eval()(images)).norm() < 0.3 * model(images).norm()


def test_parameters_are_those_of_the_ranks(tiny: GoogLeNet, examples: torch.Tensor) -> None:
    result = factorize(tiny, examples, macs_ratio=0.8, layers=ALL, round_to=1)
    expected = count_parameters(tiny)
    for (name, module), rank in zip(tiny.layers().items(), result.architecture.ranks, strict=True):
        if rank:
            assert name in ALL
            weight = (module[0] if isinstance(module, ConvBN) else module).weight
            num_out, num_in, *kernel = weight.shape
            expected += rank * (num_out + num_in) * (kernel[0] if kernel else 1) - weight.numel()
    assert any(result.architecture.ranks)
    assert count_parameters(result) == expected
    assert torch.equal(result.mean, tiny.mean)


def test_ranks_are_multiples_where_that_pays(examples: torch.Tensor, tiny: GoogLeNet) -> None:
    result = factorize(tiny, examples, macs_ratio=0.9, layers=["stem.2"], round_to=4)
    assert next(rank for rank in result.architecture.ranks if rank) % 4 == 0


def test_a_layer_too_thin_for_multiples_keeps_the_rank_it_needs() -> None:
    energies = torch.tensor([0.4, 0.3, 0.2, 0.1])
    layer = Layer(torch.eye(4), torch.zeros(4), torch.eye(4), energies, macs=10, macs_per_rank=3)
    assert layer.rank(0.05, round_to=8) == 3


def test_a_layer_that_would_get_no_cheaper_stays_whole() -> None:
    energies = torch.tensor([0.4, 0.3, 0.2, 0.1])
    layer = Layer(torch.eye(4), torch.zeros(4), torch.eye(4), energies, macs=9, macs_per_rank=3)
    assert (layer.rank(0.0, round_to=1), layer.cost(0)) == (0, 9)


@torch.no_grad()
def test_the_mean_output_survives_truncation(tiny: GoogLeNet, examples: torch.Tensor) -> None:
    name, before = "blocks.3.branch1", count_macs(tiny, examples[:1])  # a 1x1 convolution with a bias
    result = factorize(tiny, examples, macs_ratio=(before - 2000) / before, layers=[name], round_to=1)
    outputs: list[torch.Tensor] = []
    for model in (tiny, result):
        model.layers()[name][0].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        model(examples)
    whole, factorized = outputs
    assert (whole - factorized).abs().max() > 1e-3
    assert torch.allclose(whole.mean((0, 2, 3)), factorized.mean((0, 2, 3)), atol=1e-5)


def test_a_layer_of_large_outputs_gets_no_more_of_the_budget(tiny: GoogLeNet, examples: torch.Tensor) -> None:
    louder = copy.deepcopy(tiny)
    with torch.no_grad():
        louder.stem[2][0].weight *= 100
        louder.stem[2][1].running_mean *= 100
        louder.stem[2][1].running_var *= 100**2
    ranks = [
        factorize(model, examples, macs_ratio=0.8, layers=ALL, round_to=1).architecture.ranks
        for model in (tiny, louder)
    ]
    assert ranks[0] == ranks[1]


def test_an_output_without_variance_in_some_directions_is_factorized_without_loss(
    tiny: GoogLeNet, examples: torch.Tensor
) -> None:
    with torch.no_grad():  # the images never show the second half of what this layer could see
        tiny.stem[1][0].weight[3:] = 0
        tiny.stem[1][1].weight[3:] = 0
        tiny.stem[1][1].bias[3:] = 0  # so the next layer reads zeros, whatever its weights
    before = count_macs(tiny, examples[:1])
    result = factorize(tiny, examples, macs_ratio=(before - 1) / before, layers=["stem.2"], round_to=1)
    rank = next(filter(None, result.architecture.ranks))
    assert rank < min(3 * 6, 3 * 19)
    assert torch.allclose(result(examples), tiny(examples), atol=1e-3)


def test_truncation_by_outputs_beats_truncation_by_weights(tiny: GoogLeNet, examples: torch.Tensor) -> None:
    examples = examples * torch.tensor([1, 0.05, 0.05]).view(1, 3, 1, 1)  # what the network reads has few directions
    by_outputs = factorize(tiny, examples, macs_ratio=0.85, layers=["stem.2"], round_to=1)
    rank = by_outputs.stem[2][0][0].out_channels
    weight = tiny.stem[2][0].weight  # (out, in, 3, 3)
    matrix = weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    by_weights = GoogLeNet(by_outputs.architecture).eval()
    state = by_outputs.state_dict()
    num_out, num_in = weight.shape[:2]
    state["stem.2.0.0.weight"] = (u[:, :rank] * s[:rank]).T.reshape(rank, num_in, 3, 1)
    state["stem.2.0.1.weight"] = v[:rank].view(rank, num_out, 3).permute(1, 0, 2).unsqueeze(2)
    by_weights.load_state_dict(state)

    @torch.no_grad()
    def error(model: GoogLeNet) -> float:
        outputs = [net.stem[:2](examples) for net in (tiny, model)]
        return float((model.stem[2][0](outputs[1]) - tiny.stem[2][0](outputs[0])).pow(2).mean())

    assert error(by_outputs) < error(by_weights)


def test_the_model_is_left_as_it_is(tiny: GoogLeNet, examples: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    factorize(tiny, examples, macs_ratio=0.8, layers=ALL, round_to=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())
    assert tiny.architecture == replace(tiny.architecture, ranks=())


def test_an_unknown_layer_is_an_error_that_names_its_like(tiny: GoogLeNet, examples: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"lowrank\.layers must name layers of the network.*stem\.1.*got 'stem1'"):
        factorize(tiny, examples, macs_ratio=0.8, layers=["stem1"], round_to=1)


def test_an_impossible_budget_is_an_error(tiny: GoogLeNet, examples: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"lowrank\.macs_ratio must be at least 0\.\d+ with these .* got 0\.1"):
        factorize(tiny, examples, macs_ratio=0.1, layers=ALL, round_to=1)


def test_layers_that_save_nothing_are_an_error(tiny: GoogLeNet, examples: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"lowrank\.layers must be able to save .*, got linear; list more"):
        factorize(tiny, examples, macs_ratio=0.9, layers=["linear"], round_to=4)
