"""What runs a model in a worker of `measuring`: ONNX Runtime, or PyTorch as the original report did.

Each engine imports its library when it is made, so that a worker pays for one and its memory is measured apart.
"""

import os
import re
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from stages.lib.profiling.measuring import Facts

PROFILES = 20


class OnnxEngine:
    """One ONNX model in ONNX Runtime, for one image or a batch at a time."""

    def __init__(self, path: Path, threads: int, batch_size: int = 1) -> None:
        from stages.lib.runtime.session import open_session

        self._memory = MemoryGrowth()
        self._session = open_session(path, threads=threads)
        self._feed = {"images": random_images(self._session.get_inputs()[0].shape[1], batch_size)}
        self._file_bytes = path.stat().st_size

    def run(self) -> None:
        """Classify them."""
        self._session.run(["logits"], self._feed)

    def facts(self) -> Facts:
        """What else there is to know, after the runs."""
        return {"file_bytes": self._file_bytes, "memory_mb": self._memory.megabytes()}


class EagerEngine:
    """One checkpoint in PyTorch, for one image at a time."""

    def __init__(self, path: Path, threads: int, image_size: int) -> None:
        os.environ["KINETO_LOG_LEVEL"] = "99"  # read when torch is imported: the profiler talks
        import torch

        from stages.lib.network.checkpoint import load_model

        torch.set_num_threads(threads)
        self._memory = MemoryGrowth()
        self._model = load_model(path)
        # (1, 3, S, S)
        self._image = torch.from_numpy(random_images(image_size, 1)).permute(0, 3, 1, 2).contiguous() / 255
        self._file_bytes = path.stat().st_size

    def run(self) -> None:
        """Classify one image."""
        import torch

        with torch.inference_mode():
            self._model(self._image)

    def facts(self) -> Facts:
        """What else there is to know, after the runs."""
        from stages.lib.costs import count_macs, count_nonzero_parameters, count_parameters

        return {
            "memory_mb": self._memory.megabytes(),
            "checkpoint_bytes": self._file_bytes,
            "num_parameters": count_parameters(self._model),
            "num_nonzero_parameters": count_nonzero_parameters(self._model),
            "macs": count_macs(self._model, self._image),
            "profiler_cpu_ms": self._profiled_ms("cpu"),
        }

    def _profiled_ms(self, device: Literal["cpu", "cuda"]) -> float:
        """Total time on a device that torch.profiler sees in one forward pass, in milliseconds, the median."""
        from torch.profiler import ProfilerActivity, profile

        # To watch the GPU adds its runtime to the CPU's time, so that is watched alone.
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
        self.run()
        totals_us = []
        for _ in range(PROFILES):
            with profile(activities=activities) as profiler:
                self.run()
            events = profiler.key_averages()
            if device == "cpu":
                totals_us.append(events.self_cpu_time_total)
            else:  # each kernel is an event of its own, and again part of the CPU's event that launched it
                kernels = [event for event in events if event.device_type.name == "CUDA"]
                totals_us.append(sum(kernel.self_device_time_total for kernel in kernels))
        return float(statistics.median(totals_us)) / 1000


class CudaEngine(EagerEngine):
    """One checkpoint in PyTorch on the GPU, for one image at a time."""

    def __init__(self, path: Path, threads: int, image_size: int) -> None:
        super().__init__(path, threads, image_size)
        self._model, self._image = self._model.cuda(), self._image.cuda()

    def run(self) -> None:
        """Classify one image, and wait for it."""
        import torch

        super().run()
        torch.cuda.synchronize()

    def facts(self) -> Facts:
        """What else there is to know, after the runs."""
        import torch

        return {"gpu": torch.cuda.get_device_name(), "profiler_cuda_ms": self._profiled_ms("cuda")}


class MemoryGrowth:
    """Growth of this process's resident memory since now, at its peak."""

    def __init__(self) -> None:
        with suppress(OSError):  # forget the peak of the import
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = psutil.Process().memory_info().rss

    def megabytes(self) -> float:
        """In units of 10^6 bytes."""
        peak = psutil.Process().memory_info().rss
        with suppress(OSError):  # not Linux; ru_maxrss would count what the parent held when it started this process
            if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii")):
                peak = 1024 * int(found[1])
        return float(peak - self._before) / 1e6


def random_images(size: int, count: int) -> np.ndarray:
    """Images of noise, uint8 (count, size, size, 3): how long a network takes does not depend on what it sees."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
