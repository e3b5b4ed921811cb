"""Measure what every variant costs on this machine, all of them side by side: `python -m stages.profile`.

With `--device cuda`, which needs a GPU, it measures the models in PyTorch there and writes reports/profile-cuda.json,
which the report shows for as long as the models stay the same.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stages.lib import artifacts
from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.params import load_params
from stages.lib.profiling.engines import CudaEngine, EagerEngine, OnnxEngine
from stages.lib.profiling.layers import layer_times_us
from stages.lib.profiling.machine import count_threads, describe_machine
from stages.lib.profiling.measuring import Engine, Measurement, measure
from stages.lib.runtime.session import check_evaluated, read_evaluated
from stages.lib.stage import one_line_errors

COUNTS = ("num_parameters", "num_nonzero_parameters", "macs")
BATCH_SIZE = 64
BATCHES = 5  # that the throughput is the median of, at most


def main() -> None:
    """Read the models and their ONNX files, packed where they ship packed, write artifacts/profile.json."""
    params = load_params()
    import onnx  # not in the processes that this one starts

    threads = count_threads(params.profile.threads)
    engines: dict[str, Callable[[], Engine]] = {}
    paths: dict[str, Path] = {}
    onnx_bytes: dict[str, int] = {}
    for each in MODELS.values():
        engines[f"{each.name} in PyTorch"] = partial(
            EagerEngine, artifacts.model_path(each.name), threads, params.data.image_size
        )
        for precision in PRECISIONS:
            name = variant_name(each.name, precision)
            paths[name] = (artifacts.packed_path if each.packed else artifacts.onnx_path)(each.name, precision)
            onnx_bytes[name] = len(read_evaluated(paths[name], artifacts.evaluation_path(each.name, precision)))
            engines[name] = partial(OnnxEngine, paths[name], threads)
    adopted = artifacts.read_json(artifacts.adopted_evaluation_path())["variants"]
    if adopted.keys() != {variant_name(name, precision) for name in params.external for precision in PRECISIONS}:
        raise ValueError(
            f"{artifacts.adopted_evaluation_path()} must have the models of external, got others; run dvc repro"
        )
    for external in params.external:
        for precision in PRECISIONS:
            name, path = variant_name(external, precision), artifacts.adopted_path(external, precision)
            check_evaluated(path, artifacts.file_sha256(path), adopted[name]["file_sha256"])
            engines[f"{name} from elsewhere"] = partial(OnnxEngine, path, threads)
    print(f"measuring {len(engines)} engines, threads: {threads}", flush=True)
    measured = measure(engines, rounds=params.profile.rounds, calls_per_round=params.profile.calls_per_round)
    print(f"measuring the throughput in batches of {BATCH_SIZE}, and each layer", flush=True)
    layers = [node.name for node in onnx.load(paths["base-int8"]).graph.node if node.op_type in ("Conv", "Gemm")]

    eager, variants = {}, {}
    for model in MODELS:
        measurement = measured[f"{model} in PyTorch"]
        digest = {"checkpoint_sha256": artifacts.file_sha256(artifacts.model_path(model))}
        eager[model] = measurement.facts | digest | latencies(measurement, "eager", rounds=params.profile.rounds)
        counts = {key: measurement.facts[key] for key in COUNTS}
        for precision in PRECISIONS:
            name = variant_name(model, precision)
            speeds = throughput(paths[name], threads, rounds=min(BATCHES, params.profile.rounds))
            costs = measured[name].facts | {"onnx_bytes": onnx_bytes[name]} | speeds
            times = latencies(measured[name], "cpu", rounds=params.profile.rounds)
            times["layers_us"] = layer_times_us(paths[name], layers, threads=threads)
            variants[name] = counts | costs | times
            print(
                f"{name}: {variants[name]['latency_cpu_ms']:.2f} ms, {variants[name]['memory_mb']:.0f} MB", flush=True
            )
    profile = {
        "machine": describe_machine(threads=threads),
        "rounds": params.profile.rounds,
        "calls_per_round": params.profile.calls_per_round,
        "batch_size": BATCH_SIZE,
        "variants": variants,
        "eager": eager,
        "adopted": {
            name: measurement.facts | latencies(measurement, "cpu", rounds=params.profile.rounds)
            for name, measurement in ((name, measured[f"{name} from elsewhere"]) for name in adopted)
        },
    }
    artifacts.write_json(artifacts.profile_path(), profile)


def throughput(path: Path, threads: int, *, rounds: int) -> dict[str, float]:
    """Images a second in batches, with one thread and with `threads`, in turns."""
    engines = {str(count): partial(OnnxEngine, path, count, BATCH_SIZE) for count in (1, threads)}
    measured = measure(engines, rounds=rounds, calls_per_round=1)
    keys = {"images_per_s_1_thread": 1, "images_per_s": threads}
    return {key: 1000 * BATCH_SIZE / measured[str(count)].percentile_ms(50) for key, count in keys.items()}


def latencies(measurement: Measurement, where: str, *, rounds: int) -> dict[str, Any]:
    """Median, 5th and 95th percentile of the latency, and the median of each round, in milliseconds."""
    return {
        f"latency_{where}_ms": measurement.percentile_ms(50),
        f"latency_{where}_p5_ms": measurement.percentile_ms(5),
        f"latency_{where}_p95_ms": measurement.percentile_ms(95),
        "latency_rounds_ms": measurement.rounds_ms(rounds).tolist(),
    }


def profile_cuda() -> None:
    """Measure the models on the GPU, write reports/profile-cuda.json."""
    params = load_params()
    import torch

    if not torch.cuda.is_available():
        raise ValueError("--device cuda needs a GPU that PyTorch can use, found none; leave it out")
    threads = count_threads(params.profile.threads)
    engines = {
        name: partial(CudaEngine, artifacts.model_path(name), threads, params.data.image_size)
        for name in MODELS
        if artifacts.model_path(name).is_file()
    }
    measured = measure(engines, rounds=params.profile.rounds, calls_per_round=params.profile.calls_per_round)
    models = {
        name: {
            "checkpoint_sha256": artifacts.file_sha256(artifacts.model_path(name)),
            "latency_cuda_ms": measurement.percentile_ms(50),
            **measurement.facts,
        }
        for name, measurement in measured.items()
    }
    artifacts.write_json(artifacts.cuda_profile_path(), {"models": models})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    with one_line_errors("profile"):
        if device == "cuda":
            profile_cuda()
        else:
            main()
