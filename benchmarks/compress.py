"""Our int8 file of the base model beside what a user would pick instead, side by side: `make bench-compress`.

The others are ONNX Runtime's `quantize_static` after `quant_pre_process`, and NNCF's `quantize`, both with all of their
defaults, on the fp32 file that ours is made of and calibrated on the first of the images that calibrate ours; and
OpenVINO, which runs that fp32 file as it is, in bf16 where the CPU has it, and what NNCF makes of it for OpenVINO. One
run measures all of them, latencies in turns. Errors are on the validation images, since test images are read by
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
from typing import Any

import numpy as np
import onnx
from tabulate import tabulate

from benchmarks.here import setting
from stages.lib.images import Images, read_images, split_validation
from stages.lib.params import load_params
from stages.lib.profiling.engines import OnnxEngine, random_images
from stages.lib.profiling.machine import count_threads, describe_cpu
from stages.lib.profiling.measuring import Engine, Facts, measure
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


class OpenVinoEngine:
    """One ONNX or OpenVINO model in OpenVINO.

    Args:
        precision: `f32` or `bf16`, what its float operators compute with.
    """

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._model = openvino.Core().compile_model(str(path), "CPU", options)
        image_size = self._model.input(0).get_partial_shape()[1].get_length()
        self._image = random_images(image_size, 1)

    def run(self) -> None:
        """Classify one image."""
        self._model(self._image)

    def facts(self) -> Facts:
        """Nothing else."""
        return {}

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 (N, num_classes) of `images` uint8 (N, S, S, 3)."""
        parts = np.split(images, range(BATCH_SIZE, len(images), BATCH_SIZE))
        return np.concatenate([self._model(part)[0] for part in parts])


@dataclass(frozen=True)
class Contestant:
    """A model and what runs it.

    Attributes:
        path: Of the ONNX file, or the `.xml` of an OpenVINO model with its weights beside it.
        openvino: The precision that OpenVINO computes with; empty for ONNX Runtime.
    """

    path: Path
    openvino: str = ""

    def engine(self, threads: int) -> Callable[[], Engine]:
        """What makes it run, picklable."""
        if self.openvino:
            return partial(OpenVinoEngine, self.path, threads, self.openvino)
        return partial(OnnxEngine, self.path, threads)

    def error_pct(self, images: Images, threads: int) -> float:
        """Its top-1 error in percent."""
        if self.openvino:
            logits = OpenVinoEngine(self.path, threads, self.openvino).logits(images.pixels[:])
        else:
            logits = classify(open_session(self.path, threads=threads), images.pixels[:], batch_size=BATCH_SIZE)
        return error_pct(logits, images.labels, top=1)

    def size_bytes(self) -> int:
        """Of its file, or of both of its files."""
        files = {self.path, self.path.with_suffix(".bin")} if self.path.suffix == ".xml" else {self.path}
        return sum(file.stat().st_size for file in files)


def main() -> None:
    """Read the files of `stages.quantize` and data/train.npz, print a table."""
    params = load_params()
    check_inputs()
    images = read_images(TRAIN)
    train, validation = split_validation(images, per_class=params.data.val_per_class, seed=params.data.seed)
    calibration = train.pixels[np.random.default_rng(SEED).permutation(len(train))[:CALIBRATION_IMAGES]]
    threads = count_threads(params.profile.threads)

    with tempfile.TemporaryDirectory() as folder:
        contestants = {name: Contestant(path) for name, path in FILES.items()}
        for name, suffix, quantize in (
            (f"ONNX Runtime {version('onnxruntime')}, defaults", "onnx", quantize_onnxruntime),
            (f"NNCF {version('nncf')}, defaults", "onnx", quantize_nncf),
            (f"NNCF {version('nncf')} in OpenVINO {version('openvino')}", "xml", quantize_openvino),
        ):
            print(f"quantizing with {name}", flush=True)
            path = Path(folder) / f"{len(contestants)}.{suffix}"
            quantize(FILES[FP32], path, calibration)
            contestants[name] = Contestant(path, openvino="f32" if suffix == "xml" else "")
        for precision in ("f32", "bf16") if has_bf16() else ("f32",):
            contestants[f"OpenVINO {version('openvino')}, {precision}"] = Contestant(FILES[FP32], openvino=precision)
        print(f"measuring {len(contestants)} models with {threads} threads", flush=True)
        results = compare(
            contestants,
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


def has_bf16() -> bool:
    """Whether the CPU computes in bf16."""
    return any("bf16" in flag for flag in describe_cpu()[1])


def quantize_onnxruntime(fp32_path: Path, int8_path: Path, calibration: np.ndarray) -> None:
    """Quantize as ONNX Runtime's documentation says, everything left at its default.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Args:
        calibration: uint8 (N, S, S, 3).
    """
    from onnxruntime.quantization import quant_pre_process, quantize_static

    from stages.lib.quantization.calibration import Batches

    prepared = int8_path.with_suffix(".prepared.onnx")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        quant_pre_process(fp32_path, prepared)
        quantize_static(prepared, int8_path, Batches(*np.split(calibration, len(calibration))))


def quantize_nncf(fp32_path: Path, int8_path: Path, calibration: np.ndarray) -> None:
    """Quantize as NNCF's documentation says, everything left at its default; arguments as above.

    https://github.com/openvinotoolkit/nncf#post-training-quantization
    """
    onnx.save(_nncf_quantized(onnx.load(fp32_path), calibration, name="images"), int8_path)


def quantize_openvino(fp32_path: Path, int8_path: Path, calibration: np.ndarray) -> None:
    """The same for OpenVINO; `int8_path` ends in `.xml`."""
    import openvino

    openvino.save_model(_nncf_quantized(openvino.Core().read_model(fp32_path), calibration, name=0), int8_path)


def _nncf_quantized(model: Any, calibration: np.ndarray, *, name: str | int) -> Any:
    os.environ["NNCF_CI"] = "1"  # read when it is imported: else it reports its use to its authors
    import nncf

    nncf.set_log_level(logging.ERROR)
    dataset = nncf.Dataset([{name: image} for image in np.split(calibration, len(calibration))])
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(model, dataset)


def compare(
    contestants: Mapping[str, Contestant], images: Images, *, threads: int, rounds: int, calls_per_round: int
) -> dict[str, Result]:
    """Measure the error of each model on `images`, and the latencies of all of them in turns."""
    errors = {name: each.error_pct(images, threads) for name, each in contestants.items()}
    engines = {name: each.engine(threads) for name, each in contestants.items()}
    measured = measure(engines, rounds=rounds, calls_per_round=calls_per_round)
    return {
        name: Result(
            errors[name], each.size_bytes(), *(measured[name].percentile_ms(percent) for percent in (50, 5, 95))
        )
        for name, each in contestants.items()
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
