"""Measure what every variant costs on this machine, all of them side by side: `python -m stages.profile`."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from stages.lib.artifacts import evaluation_path, model_path, onnx_path, packed_path, profile_path, write_json
from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.params import load_params
from stages.lib.profiling.engines import EagerEngine, OnnxEngine
from stages.lib.profiling.machine import count_threads, describe_machine
from stages.lib.profiling.measuring import Engine, Measurement, measure
from stages.lib.runtime.session import read_evaluated
from stages.lib.stage import one_line_errors

COUNTS = ("num_parameters", "num_nonzero_parameters", "macs")


def main() -> None:
    """Read the models and their ONNX files, packed where they ship packed, write artifacts/profile.json."""
    params = load_params()
    threads = count_threads(params.profile.threads)

    engines: dict[str, Callable[[], Engine]] = {}
    onnx_bytes: dict[str, int] = {}
    for each in MODELS.values():
        engines[f"{each.name} in PyTorch"] = partial(
            EagerEngine, model_path(each.name), threads, params.data.image_size
        )
        for precision in PRECISIONS:
            path = (packed_path if each.packed else onnx_path)(each.name, precision)
            onnx_file = read_evaluated(path, evaluation_path(each.name, precision))
            name = variant_name(each.name, precision)
            onnx_bytes[name] = len(onnx_file)
            engines[name] = partial(OnnxEngine, path, threads)
    print(f"measuring {len(engines)} engines, threads: {threads}", flush=True)
    measured = measure(engines, rounds=params.profile.rounds, calls_per_round=params.profile.calls_per_round)

    machine = describe_machine(threads=threads)
    eager, variants = {}, {}
    for model in MODELS:
        measurement = measured[f"{model} in PyTorch"]
        machine["gpu"] = measurement.facts.pop("gpu")
        eager[model] = measurement.facts | latencies(measurement, "eager", rounds=params.profile.rounds)
        counts = {key: measurement.facts[key] for key in COUNTS}
        for precision in PRECISIONS:
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
    write_json(profile_path(), profile)


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
