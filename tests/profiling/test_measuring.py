"""Turns of worker processes, and what their engines find."""

import mmap
import os
from functools import partial
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import nn

from stages import profile
from stages.lib.costs import count_macs, count_nonzero_parameters, count_parameters
from stages.lib.models import variant_name
from stages.lib.network.checkpoint import save_model
from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
from stages.lib.params import render_params
from stages.lib.profiling import machine, measuring
from stages.lib.profiling.engines import EagerEngine, MemoryGrowth, OnnxEngine
from stages.lib.profiling.measuring import Measurement, measure
from stages.lib.quantization.export import export_onnx
from stages.lib.runtime import session as inference
from stages.lib.runtime.packing import pack
from stages.lib.schema import Params
from tests.profiling.sleepers import Broken, Diarist, Dying, DyingLater, Sleeper, refuse


def test_every_call_of_every_round_is_a_sample_from_a_process_of_its_own() -> None:
    measured = measure({"short": partial(Sleeper, 1), "long": partial(Sleeper, 5)}, rounds=3, calls_per_round=4)
    assert [len(measurement.latencies_ms) for measurement in measured.values()] == [12, 12]
    assert int(measured["short"].facts["calls"] or 0) > 3 * 4  # some were to warm up
    assert len({os.getpid(), measured["short"].facts["pid"], measured["long"].facts["pid"]}) == 3
    assert measured["short"].latencies_ms.min() >= 1
    assert measured["long"].latencies_ms.min() >= 5


def test_a_sample_is_the_time_of_one_call_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    class Ticking(Sleeper):
        def run(self) -> None:
            self.calls += 1
            clock[0] += self.calls / 1000

    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    first = 14  # 1 + 2 + ... + 14 ms are the first sum above the 100 ms of warm-up
    assert measuring._time_calls(Ticking(0), 3) == pytest.approx([first + 1, first + 2, first + 3])


def test_turns_are_shuffled(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    measure({name: partial(Diarist, diary, name) for name in "ab"}, rounds=6, calls_per_round=1)
    turns = [name for name, _ in groupby(diary.read_text(encoding="utf-8"))]
    assert set(turns) == {"a", "b"}
    assert len(turns) < 2 * 6  # strict alternation would have all of them


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (partial(Broken, 0), "bad: RuntimeError: out of ideas"),
        (partial(Dying, 0), "bad: its process died with exit code 9; is there enough memory?"),
        (partial(DyingLater, 0), "bad: its process died with exit code 9; is there enough memory?"),
        (refuse, "bad: ValueError: no such model"),
    ],
)
def test_failing_engine_is_a_one_line_error_and_ends_the_others(engine: partial[Sleeper], message: str) -> None:
    with pytest.raises(ChildProcessError) as caught:
        measure({"good": partial(Sleeper, 0), "bad": engine}, rounds=2, calls_per_round=2)
    assert str(caught.value) == message
    assert not measuring.multiprocessing.active_children()


def test_percentiles_are_of_all_calls() -> None:
    measurement = Measurement(np.arange(101.0), {})
    assert [measurement.percentile_ms(percent) for percent in (5, 50, 95)] == [5, 50, 95]


def test_variants_are_named_as_in_the_report() -> None:
    assert [variant_name("base", precision) for precision in ("fp32", "int8")] == ["base", "base-int8"]


def test_threads_are_those_asked_for_or_the_cores() -> None:
    assert machine.count_threads(3) == 3
    assert 1 <= machine.count_threads(0) <= (os.cpu_count() or 1)


def test_a_container_gets_no_more_threads_than_its_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda **_: 64)
    assert machine.count_threads(0) == 2


def test_machine_names_its_cpu_and_versions() -> None:
    described = machine.describe_machine(threads=2)
    assert described["cpu"] and described["torch"] and described["onnxruntime"] and described["threads"] == 2
    assert isinstance(described["avx2"], bool)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: Some CPU\nflags\t\t: fpu avx2\n", ["fpu", "avx2"]),
        ("Features\t: fp asimddp\n\nModel\t\t: Some CPU\n", ["fp", "asimddp"]),
    ],
)
def test_instructions_are_read_on_x86_and_on_arm(
    text: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.Path, "read_text", lambda *_, **__: text)
    assert machine.describe_cpu() == ("Some CPU", expected)


def test_memory_growth_keeps_the_peak() -> None:
    growth = MemoryGrowth()
    # Straight from the system: the heap may have kept what earlier tests freed.
    block = np.frombuffer(mmap.mmap(-1, 50_000_000), dtype=np.uint8)
    block[:] = 1
    del block
    assert 45 < growth.megabytes() < 90


def test_macs_of_convolutions_and_linear_layers_are_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1, groups=2), nn.Flatten(), nn.LazyLinear(5))
    image = torch.zeros(1, 3, 4, 4)
    model(image)
    assert count_macs(model, image) == 16 * 8 * 3 * 9 + 16 * 8 * 4 + 8 * 16 * 5


def test_full_net_costs_what_the_original_report_says() -> None:
    model = GoogLeNet(Architecture(scaled_widths(1), num_classes=100, stem_pool=True, dropout=0)).eval()
    assert count_parameters(model) == 6_402_564
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == pytest.approx(0.53e9, rel=0.01)


def test_zeros_are_no_nonzero_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    nn.init.ones_(model[0].bias)
    nn.init.ones_(model[0].weight)
    model[0].weight.data[0, :3] = 0
    assert count_parameters(model) == 14
    assert count_nonzero_parameters(model) == 14 - 3 - 2  # and batch normalization's biases start at 0


def test_engines_report_what_the_profile_needs(tmp_path: Path) -> None:
    model = GoogLeNet(Architecture(scaled_widths(0.1), num_classes=10, stem_pool=True, dropout=0)).eval()
    model.linear.weight.data[0] = 0
    save_model(model, tmp_path / "tiny.safetensors")
    export_onnx(model, tmp_path / "tiny.onnx", classes=[str(i) for i in range(10)], image_size=32)
    threads = torch.get_num_threads()
    engines = (EagerEngine(tmp_path / "tiny.safetensors", threads, 32), OnnxEngine(tmp_path / "tiny.onnx", threads))
    for engine in engines:
        engine.run()
    eager, ort = (engine.facts() for engine in engines)
    assert eager["num_parameters"] == count_parameters(model)
    assert eager["num_nonzero_parameters"] == count_nonzero_parameters(model) < count_parameters(model)
    assert eager["macs"] == count_macs(model, torch.zeros(1, 3, 32, 32))
    assert eager["checkpoint_bytes"] == (tmp_path / "tiny.safetensors").stat().st_size
    assert isinstance(eager["profiler_cpu_ms"], float) and eager["profiler_cpu_ms"] > 0
    assert ort["file_bytes"] == (tmp_path / "tiny.onnx").stat().st_size
    assert isinstance(ort["memory_mb"], float) and ort["memory_mb"] > 0


def test_the_profilers_total_is_told_in_milliseconds(
    tiny: GoogLeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tiny, tmp_path / "tiny.safetensors")
    totals_us = iter([0, 9000, *[2500] * 18])
    profiler = MagicMock()
    profiler.return_value.__enter__.return_value.key_averages = lambda: SimpleNamespace(
        self_cpu_time_total=next(totals_us)
    )
    monkeypatch.setattr(torch.profiler, "profile", profiler)
    assert EagerEngine(tmp_path / "tiny.safetensors", torch.get_num_threads(), 32)._profiled_ms("cpu") == 2.5


def test_onnx_runtime_gets_the_threads_that_were_asked_for(
    tiny: GoogLeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = inference.open_session

    def open_session(path: Path, threads: int) -> Any:
        asked.append(threads)
        return original(path, threads=threads)

    monkeypatch.setattr(inference, "open_session", open_session)
    export_onnx(tiny, tmp_path / "tiny.onnx", classes=["ant", "bee", "cat"], image_size=32)
    OnnxEngine(tmp_path / "tiny.onnx", threads=3)
    assert asked == [3]


def test_engine_of_a_packed_model_counts_the_packed_file(tiny: GoogLeNet, tmp_path: Path) -> None:
    export_onnx(tiny, tmp_path / "tiny.onnx", classes=["ant", "bee", "cat"], image_size=32)
    path = tmp_path / "tiny.onnx.packed"
    path.write_bytes(pack((tmp_path / "tiny.onnx").read_bytes()))
    engine = OnnxEngine(path, threads=1)
    engine.run()
    assert engine.facts()["file_bytes"] == path.stat().st_size


def test_throughput_is_measured_in_batches_with_one_thread_and_all(tiny: GoogLeNet, tmp_path: Path) -> None:
    export_onnx(tiny, tmp_path / "tiny.onnx", classes=["ant", "bee", "cat"], image_size=32)
    speeds = profile.throughput(tmp_path / "tiny.onnx", threads=2, rounds=2)
    assert set(speeds) == {"images_per_s_1_thread", "images_per_s"} and min(speeds.values()) > 64
    engine = OnnxEngine(tmp_path / "tiny.onnx", threads=1, batch_size=64)
    assert engine._feed["images"].shape == (64, 32, 32, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_profile_on_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(render_params(Params()))
    with pytest.raises(ValueError, match="--device cuda needs a GPU that PyTorch can use, found none; leave it out"):
        profile.profile_cuda()
