"""What latency depends on besides the model: the CPU, its vector instructions, threads, versions."""

import platform
from importlib.metadata import version
from pathlib import Path

import joblib
import psutil

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni")


def count_threads(threads: int) -> int:
    """The number of threads to compute with: for 0 the physical cores that this process may use."""
    allowed = joblib.cpu_count()  # minds affinity and the quota of a container
    return threads or min(allowed, psutil.cpu_count(logical=False) or allowed)


def describe_cpu() -> tuple[str, list[str]]:
    """The name of the CPU, and its instructions as Linux lists them (elsewhere none)."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in lines}
    name = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    return name, fields.get("flags", fields.get("Features", "")).split()  # the latter on ARM


def describe_machine(*, threads: int) -> dict[str, bool | int | float | str | None]:
    """What latency depends on: the CPU and its vector instructions, threads, versions."""
    cpu, instructions = describe_cpu()
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):  # not Linux
        system = platform.platform()
    return {
        "cpu": cpu,
        "threads": threads,
        **{flag: flag in instructions for flag in CPU_FLAGS},
        "os": system,
        "python": platform.python_version(),
        "torch": version("torch"),
        "onnxruntime": version("onnxruntime"),
    }
