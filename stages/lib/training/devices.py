"""Where training runs and in which precision."""

import ctypes
import os

import psutil
import torch


def pick_device(name: str) -> torch.device:
    """The device called `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: If CUDA is asked for and not there, or torchrun started more processes than there are GPUs.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be auto or cpu on a machine without CUDA, got cuda; set device: auto")
    device = torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))
    if device.type == "cuda" and int(os.environ.get("LOCAL_RANK", 0)) >= torch.cuda.device_count():
        raise ValueError(
            f"processes must be at most one for each of the {torch.cuda.device_count()} GPUs of a machine, got "
            f"{os.environ.get('LOCAL_WORLD_SIZE')}; lower --nproc-per-node or set device: cpu"
        )
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of activations for `auto`, `fp32` or `bf16`; `auto` is bf16 where the device computes in it."""
    if name == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = torch.cpu.get_capabilities().get("avx512_bf16", False)
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def memory_bytes(device: torch.device) -> int:
    """All the memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return int(psutil.virtual_memory().total)


def keep_freed_memory() -> None:
    """Stop glibc from returning memory to the system after every step, which costs a fifth of the time on a CPU."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):  # another libc, another policy
        pass


def tune_cuda(*, deterministic: bool) -> None:
    """Let cuDNN try out its algorithms, or use only those that give the same bits every time."""
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(deterministic)
