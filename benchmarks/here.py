"""Latency of the shipped models on this machine, beside the recorded one: `make bench-here`.

It measures the files that ship, as `stages.profile` does, and leaves all of `artifacts/` as it is. Where the fp32 ONNX
files are missing, as after `dvc pull`, they are exported to a temporary folder; without PyTorch, which that needs, fp32
models that don't ship packed are left out. Nothing else here imports torch.

A ratio is taken in each round; the median counts, and 5th to 95th percentile say how far to trust it.
"""

import argparse
import hashlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from stages.lib.artifacts import (
    MACHINES,
    METRICS,
    evaluation_path,
    model_path,
    onnx_path,
    packed_path,
    profile_path,
    read_json,
    write_json,
)
from stages.lib.models import MODELS, PRECISIONS, Model, variant_name
from stages.lib.params import load_params
from stages.lib.profiling.engines import OnnxEngine
from stages.lib.profiling.machine import CPU_FLAGS, count_threads, describe_cpu
from stages.lib.profiling.measuring import Measurement, measure
from stages.lib.report.formatting import plural, times
from stages.lib.runtime.session import open_session, read_evaluated, read_model
from stages.lib.stage import one_line_errors

DOT_PRODUCTS = "asimddp"  # ARM's instructions for int8
HEADERS = (
    "variant",
    "top-1 error, %",
    "file, MB",
    "latency here, ms (p5 to p95)",
    "times as fast (p5 to p95)",
    "recorded, ms",
    "times as fast",
)


def main(save: str | None = None, rounds: int | None = None) -> None:
    """Read the models and what was recorded of them, print a table and maybe save latencies for the report."""
    params = load_params()
    rounds = rounds or params.profile.rounds
    threads = count_threads(params.profile.threads)
    metrics, costs = read_json(METRICS), read_json(profile_path())["variants"]
    recorded = {name: metrics[name] | costs[name] for name in metrics.keys() & costs}  # the latter rounded less
    models = [model for model in MODELS.values() if model.name in recorded]
    with tempfile.TemporaryDirectory() as folder:
        paths = find_files(models, exports=Path(folder))
        refuse_others([model.name for model in models], paths, exports=Path(folder))
        digests = {name: hashlib.sha256(read_model(path)).hexdigest() for name, path in paths.items()}
        print(f"measuring {len(paths)} models with {threads} threads", flush=True)
        engines: dict[str, Callable[[], OnnxEngine]] = {
            name: partial(OnnxEngine, path, threads) for name, path in paths.items()
        }
        measured = measure(engines, rounds=rounds, calls_per_round=params.profile.calls_per_round)
    print(f"\none image at a time, {rounds} rounds of {params.profile.calls_per_round} calls in turns;")
    print(f"{setting(threads)}\n")
    rows = table_rows(measured, recorded, rounds=rounds)
    print(tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True))
    if save:
        variants = {
            name: {"file_sha256": digests[name], "latency_cpu_ms": each.percentile_ms(50)}
            for name, each in measured.items()
        }
        write_json(MACHINES / f"{save}.json", {"machine": setting(threads), "variants": variants})
        print(f"\nsaved in {MACHINES / save}.json; commit it, and `dvc repro report` shows it in the report")


def find_files(models: Sequence[Model], *, exports: Path) -> dict[str, Path]:
    """The file of each variant that can be measured; what is missing in fp32 is exported to the folder `exports`.

    Raises:
        ValueError: If a model is not there.
    """
    paths = {}
    for model in models:
        for precision in PRECISIONS:
            name = variant_name(model.name, precision)
            path = (packed_path if model.packed else onnx_path)(model.name, precision)
            if precision == "fp32" and not model.packed and not path.is_file():
                if importlib.util.find_spec("torch") is None:
                    print(f"{name} is left out: exporting it needs PyTorch")
                    continue
                path = exports / f"{model.name}.onnx"
                export(model.name, path)
            if not path.is_file():
                raise ValueError(f"{path} must be the file of {name}, found none; run dvc pull --allow-missing")
            paths[name] = path
    return paths


def refuse_others(models: Sequence[str], paths: Mapping[str, Path], *, exports: Path) -> None:
    """Compare the files at hand with those whose errors were recorded; what was exported here has no record.

    Raises:
        ValueError: If a file is another.
    """
    for model in models:
        for precision in PRECISIONS:
            path = paths.get(variant_name(model, precision))
            if path is not None and path.parent != exports:
                read_evaluated(path, evaluation_path(model, precision))


def export(model: str, path: Path) -> None:
    """Export a model's checkpoint to ONNX, with the class names of its int8 file."""
    from stages.lib.network.checkpoint import load_model
    from stages.lib.quantization.export import export_onnx

    named = onnx_path(model, "int8")
    if not named.is_file():
        raise ValueError(f"{named} must be the file of {model}-int8, found none; run dvc pull --allow-missing")
    read_evaluated(named, evaluation_path(model, "int8"))  # before it is opened
    int8 = open_session(named, threads=1)
    classes = json.loads(int8.get_modelmeta().custom_metadata_map["classes"])
    print(f"exporting {model}", flush=True)
    image_size = int8.get_inputs()[0].shape[1]
    export_onnx(load_model(model_path(model)), path, classes=classes, image_size=image_size)


def table_rows(
    measured: Mapping[str, Measurement], recorded: Mapping[str, Mapping[str, Any]], *, rounds: int
) -> list[tuple[str, ...]]:
    """A row for each variant, with the fields of `HEADERS`.

    Ratios are to `base`; where that wasn't measured, to `unstructured`, whose graph is the same, or a dash.
    """
    here = {name: each.rounds_ms(rounds) for name, each in measured.items()}
    there = {name: np.array(costs["latency_rounds_ms"]) for name, costs in recorded.items()}
    reference = next((here[name] for name in ("base", "unstructured") if name in here), None)
    rows = []
    for name, measurement in measured.items():
        low, middle, high = (measurement.percentile_ms(percent) for percent in (5, 50, 95))
        ratio = "-"
        if reference is not None:
            least, median, most = map(times, np.percentile(reference / here[name], (5, 50, 95)))
            ratio = f"{median:.2f} ({least:.2f} to {most:.2f})"
        rows.append(
            (
                name,
                f"{recorded[name]['top1_error_pct']:.2f}",
                f"{recorded[name]['file_bytes'] / 1e6:.2f}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
                ratio,
                f"{recorded[name]['latency_cpu_ms']:.2f}",
                f"{times(np.median(there['base'] / there[name])):.2f}",
            )
        )
    return rows


def file_name(text: str) -> str:
    """The name of a file without its suffix.

    Raises:
        argparse.ArgumentTypeError: If it has other signs than letters, digits, - and _.
    """
    if not re.fullmatch(r"[\w-]+", text):
        raise argparse.ArgumentTypeError(f"must have letters, digits, - and _ alone, got {text!r}")
    return text


def setting(threads: int) -> str:
    """What latencies here depend on: the CPU, those of its vector instructions that int8 needs, threads, version."""
    cpu, instructions = describe_cpu()
    flags = [flag for flag in (*CPU_FLAGS, DOT_PRODUCTS) if flag in instructions]
    return f"{' '.join([cpu, *flags])}, {plural(threads, 'thread')}, onnxruntime {version('onnxruntime')}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--save", type=file_name, metavar="NAME", help="keep the latencies in reports/machines/NAME.json"
    )
    parser.add_argument(
        "--rounds", type=int, choices=range(1, 101), metavar="N", help="fewer are quicker (default: profile.rounds)"
    )
    arguments = parser.parse_args()
    with one_line_errors("bench-here"):
        main(arguments.save, arguments.rounds)
