"""Why a pruned network can be no faster: `make bench-channels`.

A fifth of the channels of `artifacts/models/base` goes, with the counts that this leaves, as in the original report,
and with counts rounded to multiples of 8 and of 16. Each network runs in PyTorch and in ONNX Runtime, one image at a
time and all in turns. A ratio is taken in each round. Nothing is fine-tuned: the time does not depend on the weights.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks.here import setting
from stages.lib.artifacts import model_path
from stages.lib.costs import count_parameters
from stages.lib.network.checkpoint import load_model, save_model
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.params import load_params
from stages.lib.profiling.engines import EagerEngine, OnnxEngine
from stages.lib.profiling.machine import count_threads
from stages.lib.profiling.measuring import Engine, Measurement, measure
from stages.lib.pruning.channels import prune_channels
from stages.lib.quantization.export import export_onnx
from stages.lib.stage import one_line_errors

RATIO = 0.2
MULTIPLES = (None, 8, 16)
HEADERS = ("channels", "parameters", "PyTorch, ms", "faster (p5 to p95)", "ONNX Runtime, ms", "faster (p5 to p95)")


def networks(base: GoogLeNet) -> dict[str, GoogLeNet]:
    """The base, and what is left of it, by the name of its row."""
    pruned = {
        "as they come" if multiple is None else f"multiples of {multiple}": prune_channels(
            base, ratio=RATIO, round_to=multiple
        )
        for multiple in MULTIPLES
    }
    return {"all": base, **pruned}


def speed(measured: Measurement, base: Measurement, *, rounds: int) -> tuple[str, str]:
    """The median latency, and how many times as fast as `base` that is over the rounds."""
    low, middle, high = np.percentile(base.rounds_ms(rounds) / measured.rounds_ms(rounds), (5, 50, 95))
    return f"{measured.percentile_ms(50):.2f}", f"{middle:.2f}× ({low:.2f} to {high:.2f})"


def main() -> None:
    """Read the base, print the table."""
    params = load_params()
    rounds, size = params.profile.rounds, params.data.image_size
    threads = count_threads(params.profile.threads)
    models = networks(load_model(model_path("base")))
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Callable[[], Engine]] = {}
        for number, (name, model) in enumerate(models.items()):
            checkpoint, onnx = (Path(folder) / f"{number}.{kind}" for kind in ("safetensors", "onnx"))
            save_model(model, checkpoint)
            classes = [str(label) for label in range(model.architecture.num_classes)]
            export_onnx(model, onnx, classes=classes, image_size=size)
            engines[f"{name} in PyTorch"] = partial(EagerEngine, checkpoint, threads, size)
            engines[name] = partial(OnnxEngine, onnx, threads)
        measured = measure(engines, rounds=rounds, calls_per_round=params.profile.calls_per_round)
    rows = [
        (
            name,
            f"{count_parameters(model):,}",
            *speed(measured[f"{name} in PyTorch"], measured["all in PyTorch"], rounds=rounds),
            *speed(measured[name], measured["all"], rounds=rounds),
        )
        for name, model in models.items()
    ]
    print(f"\none image at a time, {rounds} rounds of {params.profile.calls_per_round} calls in turns;")
    print(f"{setting(threads)}\n")
    print(tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with one_line_errors("bench-channels"):
        main()
