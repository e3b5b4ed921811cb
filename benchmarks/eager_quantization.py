"""Why the original's int8 failed, tried on our base: `make bench-eager`.

PyTorch's own static quantization in eager mode, as of the original's time, on the network of `artifacts/models/base`:
once as one would write it first, with `torch.cat` over the branches, which gives all of them the scale of the first;
and once with `FloatFunctional.cat`, which observes a scale for all. Beside them fp32 and our int8 file. It reads the
images of `dvc repro`; errors are on the validation images.
"""

import argparse
import copy
import warnings

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub, convert, fuse_modules, get_default_qconfig, prepare

from stages.lib.artifacts import model_path, onnx_path
from stages.lib.images import Images, read_training_images
from stages.lib.network.checkpoint import load_model
from stages.lib.network.googlenet import ConvBN, GoogLeNet, Inception
from stages.lib.params import load_params
from stages.lib.runtime.session import classify, error_pct, open_session
from stages.lib.stage import one_line_errors, track
from stages.quantize import SEED

CALIBRATION_IMAGES = 256
BATCH_SIZE = 100
ENGINE = "x86"


class EagerNet(nn.Module):
    """The network as eager mode wants it: stubs around it, and each convolution fused with what follows."""

    def __init__(self, model: GoogLeNet, *, observes_concatenation: bool) -> None:
        super().__init__()
        self.net = copy.deepcopy(model).eval()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        for name, module in list(self.net.named_modules()):
            if isinstance(module, ConvBN):
                fuse_modules(self.net, [[f"{name}.{part}" for part in range(3)]], inplace=True)
            elif isinstance(module, Inception):
                module.concatenation = FloatFunctional() if observes_concatenation else None
                module.forward = concatenated.__get__(module)  # type: ignore[method-assign]

    def forward(self, images: Tensor) -> Tensor:
        """Classify float images (N, 3, S, S) in [0, 1]."""
        x = self.quant((images - self.net.mean) / self.net.std)
        x = self.net.blocks(self.net.stem(x)).mean(dim=(2, 3))
        logits: Tensor = self.dequant(self.net.linear(x))
        return logits


def concatenated(block: Inception, x: Tensor) -> Tensor:
    """What `Inception.forward` computes, with the concatenation that is to be tried."""
    branches = [block.branch1(x), block.branch2(x), block.branch3(x), block.branch4(x)]
    if block.concatenation is None:
        return torch.cat(branches, dim=1)
    joined: Tensor = block.concatenation.cat(branches, dim=1)
    return joined


@torch.no_grad()
def quantized(model: GoogLeNet, calibration: Tensor, *, observes_concatenation: bool) -> nn.Module:
    """The network after post-training static quantization, calibrated on float images (N, 3, S, S)."""
    torch.backends.quantized.engine = ENGINE
    net = EagerNet(model, observes_concatenation=observes_concatenation)
    net.qconfig = get_default_qconfig(ENGINE)
    prepared = prepare(net)
    for batch in calibration.split(BATCH_SIZE):
        prepared(batch)
    return convert(prepared)


@torch.no_grad()
def error(model: nn.Module, images: Images) -> float:
    """Top-1 error in percent."""
    pixels = torch.from_numpy(images.pixels[:]).permute(0, 3, 1, 2)
    logits = [model(batch.float() / 255) for batch in track(pixels.split(BATCH_SIZE), unit="batch")]
    return error_pct(torch.cat(logits).numpy(), images.labels, top=1)


def main() -> None:
    """Print the errors side by side."""
    params = load_params()
    warnings.simplefilter("ignore")  # eager mode is deprecated, which is not the point here
    train, validation = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(SEED))[:CALIBRATION_IMAGES]
    calibration = torch.from_numpy(train.pixels[chosen.numpy()]).permute(0, 3, 1, 2).float() / 255
    model = load_model(model_path("base"))
    rows = [("fp32", error(model, validation))]
    for name, observes in (("eager mode, torch.cat", False), ("eager mode, FloatFunctional.cat", True)):
        rows.append((name, error(quantized(model, calibration, observes_concatenation=observes), validation)))
    if onnx_path("base", "int8").is_file():
        session = open_session(onnx_path("base", "int8"), threads=0)
        logits = classify(session, validation.pixels[:], batch_size=BATCH_SIZE)
        rows.append(("ours, ONNX Runtime", error_pct(logits, validation.labels, top=1)))
    print(f"top-1 error on {len(validation):,} validation images, PyTorch {torch.__version__}")
    print(tabulate(rows, headers=("int8 by", "%"), tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with one_line_errors("bench-eager"):
        main()
