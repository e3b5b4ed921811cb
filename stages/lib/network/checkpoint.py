"""Model files: safetensors whose one metadata entry, `architecture`, rebuilds the network. Nothing is pickled."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from stages.lib.artifacts import replacing
from stages.lib.network.googlenet import Architecture, GoogLeNet

LARGEST_HALF = torch.finfo(torch.half).max
MASK, NONZERO = ".mask", ".nonzero"  # what the names of the two parts of a sparse weight end in


def save_model(model: GoogLeNet, path: Path) -> None:
    """Write the weights and the architecture; the same model gives the same bytes.

    Weights are rounded to half precision, but not those of a rounded network, which would leave its levels. A weight
    that is mostly zeros is stored as a bit mask and its nonzero elements.
    """
    values = asdict(model.architecture)
    for key, usual in (("ranks", ()), ("weight_levels", 0), ("stem_stride", 1)):
        if values[key] == usual:
            del values[key]
    architecture = json.dumps(values, sort_keys=True)
    tensors = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.detach().cpu().contiguous()
        is_weight = name.endswith(".weight") and whole.dim() > 1
        if is_weight and not model.architecture.weight_levels and whole.abs().max() <= LARGEST_HALF:
            whole = whole.half()
        if is_weight and 2 * whole.count_nonzero() < whole.numel():
            kept = whole != 0
            tensors[f"{name}{MASK}"] = torch.from_numpy(np.packbits(kept.numpy()))
            tensors[f"{name}{NONZERO}"] = whole[kept]
        else:
            tensors[name] = whole
    with replacing(path) as temporary:
        # One key only: safetensors writes several in random order. And not by its own hand, which would leave a file of
        # another name behind when it is killed.
        temporary.write_bytes(save(tensors, metadata={"architecture": architecture}))


def load_model(path: Path) -> GoogLeNet:
    """Rebuild a saved model on the CPU, in single precision and in evaluation mode.

    Raises:
        ValueError: If the file is not one of ours, or its weights do not fit its architecture.
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})["architecture"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        values["widths"] = tuple(values["widths"])
        values["ranks"] = tuple(values.get("ranks", ()))
        with torch.device("meta"):  # skip the random initialization
            model = GoogLeNet(Architecture(**values))
        for name, empty in model.state_dict().items():
            if (bits := tensors.pop(f"{name}{MASK}", None)) is not None:
                if bits.numel() != math.ceil(empty.numel() / 8):
                    raise ValueError(f"{name} has a mask of the wrong size")
                kept = torch.from_numpy(np.unpackbits(bits.numpy(), count=empty.numel()).astype(bool))
                tensors[name] = torch.zeros(empty.shape)
                tensors[name][kept.view(empty.shape)] = tensors.pop(f"{name}{NONZERO}").float()
        model.load_state_dict(tensors, assign=True)
        model.float()
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} must be a model written by this pipeline ({reason}); run dvc repro") from None
    return model.requires_grad_().eval()


def load_start(path: Path, *, num_classes: int, stem_stride: int, dropout: float) -> GoogLeNet:
    """A saved model with a new, random linear layer for `num_classes`, to be trained on other images.

    Raises:
        ValueError: If the file is not one of ours, holds a factorized or rounded model, or values that aren't finite.
    """
    trained = load_model(path)
    architecture = trained.architecture
    if architecture.ranks or architecture.weight_levels:
        raise ValueError(f"{path} must be a model of stage train, got a factorized or rounded one; choose another")
    state = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith("linear.")}
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise ValueError(f"{path} must hold finite weights, got others; choose another")
    model = GoogLeNet(replace(architecture, num_classes=num_classes, stem_stride=stem_stride, dropout=dropout))
    model.load_state_dict(state, strict=False)  # without the linear layer
    return model
