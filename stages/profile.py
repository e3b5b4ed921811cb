"""Measure what every variant costs on this machine, all of them side by side: `python -m stages.profile`."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

from stages.lib.engines import EagerEngine, OnnxEngine
from stages.lib.errors import one_line_errors
from stages.lib.files import replacing
from stages.lib.inference import read_evaluated
from stages.lib.measuring import Engine, Measurement, count_threads, describe_machine, measure
from stages.lib.params import Precision, load_params, variant_name

COUNTS = ("num_parameters", "num_nonzero_parameters", "macs")


def main() -> None:
    """Read the models and their ONNX files, packed where they ship packed, write artifacts/profile.json."""
    params = load_params()
    models, precisions = params.models.reported, get_args(Precision)
    threads = count_threads(params.profile.threads)

    engines: dict[str, Callable[[], Engine]] = {}
    onnx_bytes: dict[str, int] = {}
    for model in models:
        engines[f"{model} in PyTorch"] = partial(EagerEngine, Path(f"artifacts/models/{model}.safetensors"), threads)
        for precision in precisions:
            path = (
                Path(f"artifacts/packed/{model}-{precision}.onnx.packed")
                if model in params.models.packed
                else Path(f"artifacts/{precision}/{model}.onnx")
            )
            onnx_file = read_evaluated(path, Path(f"artifacts/evaluation/{model}-{precision}.json"))
            onnx_bytes[variant_name(model, precision)] = len(onnx_file)
            engines[variant_name(model, precision)] = partial(OnnxEngine, path, threads)
    print(f"measuring {len(engines)} engines, threads: {threads}", flush=True)
    measured = measure(engines, rounds=params.profile.rounds, calls_per_round=params.profile.calls_per_round)

    machine = describe_machine(threads=threads)
    eager, variants = {}, {}
    for model in models:
        measurement = measured[f"{model} in PyTorch"]
        machine["gpu"] = measurement.facts.pop("gpu")
        eager[model] = measurement.facts | latencies(measurement, "eager", rounds=params.profile.rounds)
        counts = {key: measurement.facts[key] for key in COUNTS}
        for precision in precisions:
            name = variant_name(model, precision)
            costs = measured[name].facts | {"onnx_bytes": onnx_bytes[name]}
            variants[name] = counts | costs | latencies(measured[name], "cpu", rounds=params.profile.rounds)
            print(f"{name}: {variants[name]['latency_cpu_ms']:.2f} ms, {variants[name]['memory_mb']:.0f} MB")
    profile = {
        "machine": machine,
        "rounds": params.profile.rounds,
        "calls_per_round": params.profile.calls_per_round,
        "variants": variants,
        "eager": eager,
    }
    with replacing(Path("artifacts/profile.json")) as path:
        path.write_text(json.dumps(profile, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def latencies(measurement: Measurement, where: str, *, rounds: int) -> dict[str, Any]:
    """Median, 5th and 95th percentile of the latency, and the median of each round, in milliseconds."""
    return {
        f"latency_{where}_ms": measurement.percentile_ms(50),
        f"latency_{where}_p5_ms": measurement.percentile_ms(5),
        f"latency_{where}_p95_ms": measurement.percentile_ms(95),
        "latency_rounds_ms": measurement.rounds_ms(rounds).tolist(),
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("profile"):
        main()
