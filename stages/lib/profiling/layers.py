"""How long each layer of an ONNX model takes, as ONNX Runtime's own profiler says."""

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from stages.lib.profiling.engines import random_images
from stages.lib.runtime.session import open_session

WARM_UP = 10  # runs
RUNS = 50
KINDS = {"Concat": "concatenation", "QLinearConcat": "concatenation", "MaxPool": "pooling", "NhwcMaxPool": "pooling"}
REST = "rest"


def layer_times_us(path: Path, layers: Sequence[str], *, threads: int) -> dict[str, float]:
    """Time that each layer takes for one image, in microseconds: of each kernel the median over the runs.

    Args:
        layers: Names of convolutions and linear layers, as `export_onnx` gives them. What a layer was factorized into
            counts as that layer.

    Returns:
        By the names of `layers` and by `concatenation`, `pooling` and `rest`.

    Raises:
        ValueError: If there is no room for what the profiler writes.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, threads=threads, profile=Path(folder) / "profile")
        images = random_images(session.get_inputs()[0].shape[1], 1)
        for _ in range(WARM_UP + RUNS):
            session.run(["logits"], {"images": images})
        try:
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except ValueError:  # ONNX Runtime doesn't tell when it can't write
            raise ValueError(f"a profile of {path} must fit in {folder}, got half of one; free some space") from None
    kernels: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node":
            kernels[event["name"], event["args"]["op_name"]].append(event["dur"])
    times = dict.fromkeys([*layers, *sorted(set(KINDS.values())), REST], 0.0)
    for (kernel, operator), durations in kernels.items():
        # ONNX Runtime appends to the name of a node, `_nchwc` or `_token_7`; a part of a layer has a dot and a number.
        named = [layer for layer in layers if kernel.startswith((f"{layer}_", f"{layer}."))]
        times[max(named, key=len, default=KINDS.get(operator, REST))] += statistics.median(durations[WARM_UP:])
    return times
