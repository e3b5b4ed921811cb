"""Low-rank factorization: a layer replaced by two thinner ones, with the least error of its output on real images.

A 1x1 convolution becomes two 1x1 ones, a 3x3 convolution a column of 3 and a row of 3 (Jaderberg et al., "Speeding up
Convolutional Neural Networks with Low Rank Expansions", BMVC 2014). What is cut off is what matters least for the
layer's output on training images, not for its weights (data-aware truncation, as in arXiv 2511.04494).
"""

import difflib
import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.costs import count_macs
from stages.lib.network.googlenet import ConvBN, GoogLeNet
from stages.lib.stage import track

BATCH_SIZE = 64
BISECTIONS = 60


@dataclass(frozen=True)
class Layer:
    """What is known of one layer of `in` to `out` channels with a kernel of k x k.

    Attributes:
        matrix: Weights, float64 (in * k, out * k): column of the kernel by row of the kernel.
        mean: Of the columns of k pixels that it reads, float64 (in * k,).
        directions: Orthonormal columns (out * k, out * k), those that carry most of the output first.
        energies: Share of the output's variance that each direction carries, (out * k,), falling.
        macs: Of the whole layer for one image.
        macs_per_rank: Of its two factors for one image and a rank of 1.
    """

    matrix: Tensor
    mean: Tensor
    directions: Tensor
    energies: Tensor
    macs: int
    macs_per_rank: int

    def rank(self, threshold: float, round_to: int) -> int:
        """The directions that keep more energy for each MAC than `threshold`, rounded down; 0 where it can't pay."""
        rank = int((self.energies / self.macs_per_rank > threshold).sum())
        step = self.least_rank(round_to)
        rank = max(rank - rank % step, step)
        return rank if rank * self.macs_per_rank < self.macs else 0

    def least_rank(self, round_to: int) -> int:
        """`round_to`, or 1 where that wouldn't pay: ranks are multiples of it."""
        return round_to if round_to * self.macs_per_rank < self.macs else 1

    def cost(self, rank: int) -> int:
        """MACs for one image at this rank, 0 for the whole layer."""
        return rank * self.macs_per_rank or self.macs


def factorize(
    model: GoogLeNet, images: Tensor, *, macs_ratio: float, layers: Sequence[str], round_to: int
) -> GoogLeNet:
    """Replace layers by two thinner ones each, with one budget for all of them.

    Ranks keep as much of the layers' relative output energy as the budget allows: a direction stays if it carries more
    of it for each MAC than a threshold, the same for all layers. A layer that wouldn't get cheaper stays whole.

    Args:
        images: On which outputs are compared, float (N, 3, H, W) in [0, 1].
        macs_ratio: Share of the network's MACs that are left, in (0, 1).
        layers: Patterns of names as in `model.layers()`: `stem.[12]`, `blocks.*.branch2.1`, `linear`.
        round_to: Ranks are multiples of this, except in layers too thin for it.

    Returns:
        A network in evaluation mode, with stale statistics of batch normalization; `model` is left as it is.

    Raises:
        ValueError: If a layer is unknown, or the budget can't be met.
    """
    modules = model.layers()
    for pattern in layers:
        if not fnmatch.filter(modules, pattern):
            near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.0)
            raise ValueError(
                f"lowrank.layers must name layers of the network, such as {', '.join(near)}, got {pattern!r}"
            )
    names = [name for name in modules if any(fnmatch.fnmatchcase(name, pattern) for pattern in layers)]
    measured = _measure(model, names, images)

    total = count_macs(model, images[:1])
    rest = total - sum(layer.macs for layer in measured.values())

    def ranks_at(threshold: float) -> dict[str, int]:
        return {name: layer.rank(threshold, round_to) for name, layer in measured.items()}

    def macs_at(threshold: float) -> int:
        ranks = ranks_at(threshold)
        return rest + sum(layer.cost(ranks[name]) for name, layer in measured.items())

    high = max(float(layer.energies[0]) / layer.macs_per_rank for layer in measured.values())
    least_ratio = math.ceil(1000 * macs_at(high) / total) / 1000
    if least_ratio >= 1:
        raise ValueError(
            f"lowrank.layers must be able to save a thousandth of the MACs, got {', '.join(measured)}; list more"
        )
    if macs_at(high) > macs_ratio * total:
        raise ValueError(
            f"lowrank.macs_ratio must be at least {least_ratio} with these lowrank.layers, "
            f"got {macs_ratio}; raise it or list more layers"
        )
    low = 0.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if macs_at(middle) <= macs_ratio * total else (middle, high)
    ranks = ranks_at(high)

    result = GoogLeNet(replace(model.architecture, ranks=tuple(ranks.get(name, 0) for name in modules)))
    state = model.state_dict()
    for name, rank in ranks.items():
        if rank:
            prefix = name if name == "linear" else f"{name}.0"
            bias = state.pop(f"{prefix}.bias", None)
            first, second, bias = _factors(measured[name], rank, state.pop(f"{prefix}.weight"), bias)
            state |= {f"{prefix}.0.weight": first, f"{prefix}.1.weight": second}
            if bias is not None:
                state[f"{prefix}.1.bias"] = bias
    result.load_state_dict(state)
    return result.eval()


@torch.no_grad()
def _measure(model: GoogLeNet, names: Sequence[str], images: Tensor) -> dict[str, Layer]:
    """Run the images through the network and see what these layers read and give."""
    modules = {name: model.layers()[name] for name in names}
    moments: dict[nn.Module, _Moments] = {}
    for module in modules.values():
        layer = module[0] if isinstance(module, ConvBN) else module
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        weight = layer.weight.double().reshape(*layer.weight.shape[:2], *(layer.weight.shape[2:] or (1, 1)))
        moments[module] = _Moments(weight, stride=layer.stride[0] if isinstance(layer, nn.Conv2d) else 1)
    handles = [module.register_forward_pre_hook(moments[module].add) for module in moments]
    try:
        for batch in track(images.split(BATCH_SIZE), unit="batch"):
            model.eval()(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: moments[module].layer(num_images=len(images)) for name, module in modules.items()}


class _Moments:
    """Mean and second moments of the columns of pixels that a layer reads."""

    def __init__(self, weight: Tensor, *, stride: int) -> None:
        """For weights (out, in, k, k)."""
        num_out, num_in, self._k = weight.shape[:3]
        self._weight, self._stride = weight, stride
        self._matrix = weight.permute(1, 2, 0, 3).reshape(num_in * self._k, num_out * self._k)
        self._second = weight.new_zeros(len(self._matrix), len(self._matrix))
        self._first = weight.new_zeros(len(self._matrix))
        self._positions = self._pixels = 0

    def add(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        """Count in what the layer reads, (N, in, H, W) or (N, in)."""
        x = inputs[0].reshape(*inputs[0].shape[:2], *(inputs[0].shape[2:] or (1, 1)))
        columns = functional.unfold(x, (self._k, 1), padding=(self._k // 2, 0), stride=(self._stride, 1))
        columns = columns.transpose(0, 1).flatten(1)
        self._second += columns @ columns.T  # (in * k, in * k)
        self._first += columns.sum(dim=1)
        self._positions += columns.shape[1]
        self._pixels += columns.shape[1] // x.shape[3] * math.ceil(x.shape[3] / self._stride)

    def layer(self, *, num_images: int) -> Layer:
        """What follows from them."""
        mean = self._first / self._positions
        matrix = self._matrix
        # Of the output; for k > 1 of the k parts that are added up, as if neighbouring columns were uncorrelated.
        covariance = matrix.T @ (self._second / self._positions - mean.outer(mean)) @ matrix
        energies, directions = torch.linalg.eigh(covariance)  # rising
        energies = energies.flip(0).clamp(min=0)
        positions = self._positions // num_images  # of the first factor; the second has a stride of its own
        pixels = self._pixels // num_images
        num_in, num_out = matrix.shape
        return Layer(
            matrix,
            mean,
            directions.flip(1),
            energies / energies.sum().clamp(min=1e-30),
            macs=pixels * self._weight.numel(),
            macs_per_rank=positions * num_in + pixels * num_out,
        )


def _factors(layer: Layer, rank: int, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights of the two layers and the bias of the second, for the layer's `weight` and bias.

    Returns:
        For a convolution (rank, in, k, 1), (out, rank, 1, k), (out,); for the linear layer (rank, in), (out, rank),
        (out,).
    """
    num_out, num_in, k = *weight.shape[:2], (weight.shape[2] if weight.dim() > 2 else 1)
    kept = layer.directions[:, :rank]  # (out * k, rank)
    first = layer.matrix @ kept  # (in * k, rank)
    if bias is not None:  # what is cut off has a mean
        lost = (layer.matrix - first @ kept.T).T @ layer.mean
        bias = (bias.double() + lost.view(num_out, k).sum(dim=1)).to(weight.dtype)
    first = first.T.to(weight.dtype)
    second = kept.view(num_out, k, rank).permute(0, 2, 1).to(weight.dtype)
    if weight.dim() == 2:
        return first.contiguous(), second[..., 0].contiguous(), bias
    return first.reshape(rank, num_in, k, 1).contiguous(), second.unsqueeze(2).contiguous(), bias
