"""Our int8 file of the base model beside what a user would pick instead, side by side: `make bench-compress`.

The others are ONNX Runtime's `quantize_static` after `quant_pre_process`, and NNCF's `quantize`, both with all of their
defaults, on the fp32 file that ours is made of and calibrated on the first of the images that calibrate ours. One run
measures all of them, latencies in turns. Errors are on the validation images, since test images are read by
`stages.evaluate` alone; ours has chosen its calibration there, so its error is slightly flattered.

Nothing here imports torch, which NNCF's ONNX backend does without: see requirements-bench.txt.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from tabulate import tabulate

from benchmarks.here import setting
from stages.lib.images import Images, read_images, split_validation
from stages.lib.params import load_params
from stages.lib.profiling.engines import OnnxEngine
from stages.lib.profiling.machine import count_threads
from stages.lib.profiling.measuring import measure
from stages.lib.runtime.session import classify, error_pct, open_session
from stages.lib.stage import one_line_errors
from stages.quantize import SEED

FP32, OURS = "fp32", "ours"
FILES = {FP32: Path("artifacts/fp32/base.onnx"), OURS: Path("artifacts/int8/base.onnx")}
TRAIN = Path("data/train.npz")
CALIBRATION_IMAGES = 256  # of the others
BATCH_SIZE = 100  # of classifying; latency is of one image
HEADERS = ("model", "top-1 error, %", "size, MB", "of fp32", "latency, ms (p5 to p95)", "of fp32")


@dataclass(frozen=True)
class Result:
    """What was measured of one file; latencies are the median, 5th and 95th percentile."""

    error_pct: float
    size_bytes: int
    latency_ms: float
    latency_p5_ms: float
    latency_p95_ms: float


def main() -> None:
    """Read the files of `stages.quantize` and data/train.npz, print a table."""
    params = load_params()
    check_inputs()
    images = read_images(TRAIN)
    train, validation = split_validation(images, per_class=params.data.val_per_class, seed=params.data.seed)
    calibration = train.pixels[np.random.default_rng(SEED).permutation(len(train))[:CALIBRATION_IMAGES]]
    threads = count_threads(params.profile.threads)

    with tempfile.TemporaryDirectory() as folder:
        paths = dict(FILES)
        for name, quantize in (("onnxruntime", quantize_onnxruntime), ("nncf", quantize_nncf)):
            title = f"{name} {version(name)}, defaults"
            print(f"quantizing with {title}", flush=True)
            paths[title] = Path(folder) / f"{name}.onnx"
            quantize(FILES[FP32], paths[title], calibration)
        print(f"measuring {len(paths)} models with {threads} threads", flush=True)
        results = compare(
            paths,
            validation,
            threads=threads,
            rounds=params.profile.rounds,
            calls_per_round=params.profile.calls_per_round,
        )

    print(f"\n{len(validation)} validation images, the others calibrated on {len(calibration)} training images;")
    print(f"one image at a time, {params.profile.rounds} rounds of {params.profile.calls_per_round} calls in turns;")
    print(f"{setting(threads)}\n")
    print(tabulate(table_rows(results), headers=HEADERS, tablefmt="github", disable_numparse=True))


def check_inputs() -> None:
    """Stop before the work starts if something is missing.

    Raises:
        ValueError: If a file is missing, or NNCF is not installed.
    """
    for path in FILES.values():
        if not path.is_file():
            raise ValueError(f"{path} must be the base model's ONNX file, found none; run dvc repro quantize@base")
    if not TRAIN.is_file():
        raise ValueError(f"{TRAIN} must hold the training images, found none; run dvc repro download")
    if importlib.util.find_spec("nncf") is None:
        raise ValueError(
            "nncf must be installed, found none; run make bench-compress, which installs requirements-bench.txt"
        )


def quantize_onnxruntime(fp32_path: Path, int8_path: Path, calibration: np.ndarray) -> None:
    """Quantize as ONNX Runtime's documentation says, everything left at its default.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Args:
        calibration: uint8 (N, 32, 32, 3).
    """
    from onnxruntime.quantization import quant_pre_process, quantize_static

    from stages.lib.quantization.calibration import Batches

    prepared = int8_path.with_suffix(".prepared.onnx")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        quant_pre_process(fp32_path, prepared)
        quantize_static(prepared, int8_path, Batches(*np.split(calibration, len(calibration))))


def quantize_nncf(fp32_path: Path, int8_path: Path, calibration: np.ndarray) -> None:
    """Quantize as NNCF's documentation says, everything left at its default.

    https://github.com/openvinotoolkit/nncf#post-training-quantization

    Args:
        calibration: uint8 (N, 32, 32, 3).
    """
    os.environ["NNCF_CI"] = "1"  # read when it is imported: else it reports its use to its authors
    import nncf  # type: ignore[import-not-found]  # in .venv-bench

    nncf.set_log_level(logging.ERROR)
    dataset = nncf.Dataset([{"images": image} for image in np.split(calibration, len(calibration))])
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        onnx.save(nncf.quantize(onnx.load(fp32_path), dataset), int8_path)


def compare(
    paths: Mapping[str, Path], images: Images, *, threads: int, rounds: int, calls_per_round: int
) -> dict[str, Result]:
    """Measure the error of each file on `images`, and the latencies of all of them in turns."""
    errors = {}
    for name, path in paths.items():
        logits = classify(open_session(path, threads=threads), images.pixels, batch_size=BATCH_SIZE)
        errors[name] = error_pct(logits, images.labels, top=1)
    engines: dict[str, Callable[[], OnnxEngine]] = {
        name: partial(OnnxEngine, path, threads) for name, path in paths.items()
    }
    measured = measure(engines, rounds=rounds, calls_per_round=calls_per_round)
    return {
        name: Result(
            errors[name],
            path.stat().st_size,
            *(measured[name].percentile_ms(percent) for percent in (50, 5, 95)),
        )
        for name, path in paths.items()
    }


def table_rows(results: Mapping[str, Result]) -> list[tuple[str, ...]]:
    """A row for each file, with the fields of `HEADERS`; ratios are to the row `FP32`."""
    fp32 = results[FP32]
    return [
        (
            name,
            f"{result.error_pct:.2f}",
            f"{result.size_bytes / 1e6:.2f}",
            f"{result.size_bytes / fp32.size_bytes:.2f}",
            f"{result.latency_ms:.2f} ({result.latency_p5_ms:.2f} to {result.latency_p95_ms:.2f})",
            f"{result.latency_ms / fp32.latency_ms:.2f}",
        )
        for name, result in results.items()
    ]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with one_line_errors("bench-compress"):
        main()
