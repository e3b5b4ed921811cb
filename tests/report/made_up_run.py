"""A run that is made up, in a folder of its own: everything that the stages before the report write."""

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from stages.lib.artifacts import (
    compression_path,
    curve_path,
    evaluation_path,
    profile_path,
    quantization_path,
    training_path,
)
from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.params import Params, load_params, render_params
from stages.lib.report.render import render_report
from stages.lib.report.results import Accuracy, Results, read_results

ERRORS = {"base": 22.91, "structured": 24.38, "unstructured": 23.1, "lowrank": 23.4, "distilled": 24.9}
LATENCIES = {"base": 6.6, "structured": 5.0, "unstructured": 6.5, "lowrank": 5.3, "distilled": 2.4}
PARAMETERS = {"structured": 4_089_523, "lowrank": 4_500_000, "distilled": 830_000}
FLAGS = dict.fromkeys(("avx512f", "avx512_vnni", "avx_vnni"), False)
VERSIONS = {"os": "Linux", "python": "3.12.3", "torch": "2.14.1", "onnxruntime": "1.32.0"}
MACHINE = {"cpu": "Example CPU", "threads": 2, "avx2": True, "gpu": None} | FLAGS | VERSIONS
ROUNDS = 3


def accuracy(error: float, *, num_images: int = 10_000, first_missed: int = 0) -> dict[str, Any]:
    """Errors of a model that misses images in a row, from `first_missed` on."""
    num_missed = round(num_images * error / 100)
    bits = "0" * first_missed + "1" * num_missed
    missed = int(bits.ljust(-(-num_images // 8) * 8, "0"), 2).to_bytes(-(-num_images // 8), "big")
    exact = 100 * num_missed / num_images
    return {"top1_error_pct": exact, "top5_error_pct": 6.12, "num_images": num_images, "missed_hex": missed.hex()}


def read_accuracy(error: float, **images: int) -> Accuracy:
    return Accuracy.model_validate(accuracy(error, **images))


class Run:
    """The files of the run, to be changed."""

    def __init__(self) -> None:
        self.write_params(Params())
        variants, eager = {}, {}
        for model in MODELS:
            for precision in PRECISIONS:
                is_int8 = precision == "int8"
                self.write(evaluation_path(model, precision), accuracy(ERRORS.get(model, 23.0) + 0.1 * is_int8))
                variants[variant_name(model, precision)] = self.cost(model, is_int8=is_int8)
            latency = 3 * LATENCIES.get(model, 6.0)
            eager[model] = {
                "checkpoint_bytes": 4 * PARAMETERS.get(model, 6_402_564) + 60_000,
                "latency_eager_ms": latency,
                "latency_rounds_ms": [latency] * ROUNDS,
                "memory_mb": 71.3,
                "profiler_cpu_ms": 11.4,
                "latency_cuda_ms": None,
                "profiler_cuda_ms": None,
            }
            counts = {"num_train_images": 48_000, "num_val_images": 2000}
            training = {"seconds": 4321.0, "device": "CPU, 2 threads", "precision": "fp32"}
            self.write(training_path(model), training | counts)
            self.write_curve(model, num_epochs=120 if model == "base" else 4)
            calibration = {"calibration_method": "minmax", "calibration_images": 64, "bias_correction": True}
            errors = {"val_error_pct": 23.1, "fp32_val_error_pct": 22.8, "candidates": [{}] * 4}
            packed = {"packed_bytes": {"fp32": 21_500_000, "int8": 4_980_000}}
            self.write(quantization_path(model), calibration | errors | packed)
            shape: dict[str, Any] = {"widths": [51 if model == "structured" else 64] * 66, "base_widths": [64] * 66}
            shape["ranks"] = [0, 16, *[0] * 65] if model == "lowrank" else []
            if MODELS[model].finetuned:
                self.write(compression_path(model), shape)
        profile = {"machine": MACHINE, "rounds": ROUNDS, "calls_per_round": 20}
        self.write(profile_path(), profile | {"variants": variants, "eager": eager})

    def cost(self, model: str, *, is_int8: bool) -> dict[str, Any]:
        latency = LATENCIES.get(model, 6.0) / (2 if is_int8 else 1)
        onnx_bytes = PARAMETERS.get(model, 6_402_564) * (1 if is_int8 else 4) + 80_000
        return {
            "num_parameters": PARAMETERS.get(model, 6_402_564),
            "num_nonzero_parameters": 1_280_000 if model == "unstructured" else PARAMETERS.get(model, 6_402_564),
            "macs": 53_100_000 if model == "distilled" else 531_000_000,
            "onnx_bytes": onnx_bytes,
            "file_bytes": onnx_bytes // 5 if MODELS[model].packed else onnx_bytes,
            "latency_cpu_ms": latency,
            "latency_cpu_p5_ms": 0.97 * latency,
            "latency_cpu_p95_ms": 1.08 * latency,
            "latency_rounds_ms": [latency] * ROUNDS,
            "memory_mb": 61.917,
        }

    def write(self, path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")

    def change(self, path: Path, **values: Any) -> None:
        self.write(path, json.loads(path.read_text(encoding="utf-8")) | values)

    def change_cost(self, name: str, *, engine: str = "variants", **values: Any) -> None:
        costs = json.loads(profile_path().read_text(encoding="utf-8"))[engine]
        if latency := values.get("latency_cpu_ms"):
            values = {"latency_rounds_ms": [latency] * ROUNDS} | values
        self.change(profile_path(), **{engine: costs | {name: costs[name] | values}})

    def set_error(self, name: str, error: float, **images: int) -> None:
        model, _, int8 = name.partition("-")
        self.write(evaluation_path(model, int8 or "fp32"), accuracy(error, **images))

    def set(self, section: str, **values: Any) -> None:
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        params[section] |= values
        self.write_params(Params.model_validate(params))

    def write_params(self, params: Params) -> None:
        Path("params.yaml").write_text(render_params(params), encoding="utf-8")

    def write_curve(self, model: str, *, num_epochs: int, sizes: bool = True) -> None:
        curve_path(model).parent.mkdir(parents=True, exist_ok=True)
        with curve_path(model).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            header = ("epoch", "train_loss", "val_error_pct", "image_size", "val_error_at_size_pct", "lr")
            rows: list[tuple[Any, ...]] = [(0, None, 85.13, None, None, 0.0)] if model != "base" else []
            rows += [
                (epoch, 4.6 / epoch, 90 - epoch / 2, 24, 80 - epoch / 2, 0.1) for epoch in range(1, num_epochs + 1)
            ]
            writer.writerows(row if sizes else (*row[:3], row[5]) for row in (header, *rows))

    def results(self) -> Results:
        return read_results(load_params())

    def render(self, *, findings: str = "") -> str:
        return render_report(self.results(), findings=findings)
