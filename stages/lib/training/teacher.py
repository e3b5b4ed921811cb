"""What a teacher said of each view of an image, kept in a file.

The teacher takes most of a student's step. Where the student sees the same versions of every batch again and again, the
teacher runs once for each of them.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from stages.lib.artifacts import cache_folder, replacing

UNUSED_S = 14 * 24 * 3600  # after which a file is deleted


class TeacherLogits:
    """Logits by image size, view and position in the epoch, in half precision: within a thousandth of their size."""

    def __init__(self, name: str, *, views: int, steps_per_epoch: int, batch_size: int, num_classes: int) -> None:
        """Keep what belongs to `name`, which stands for the teacher and all that the views depend on."""
        self._name, self._views, self._steps_per_epoch = name, views, steps_per_epoch
        self._shape = (views * steps_per_epoch, batch_size, num_classes + 1)  # the last column tells what is there
        self._files: dict[int, np.memmap] = {}

    def read(self, step: int, size: int) -> Tensor | None:
        """What the teacher said of the batch of this step, float (B, num_classes) on the CPU; None before it did."""
        batch = self._file(size)[self._index(step)]
        return torch.from_numpy(batch[:, :-1].astype(np.float32)) if batch[:, -1].all() else None

    def write(self, step: int, size: int, logits: Tensor) -> Tensor:
        """Keep `logits` (B, num_classes); returns them as `read` will."""
        batch = self._file(size)[self._index(step)]
        batch[:, :-1] = logits.cpu().numpy()
        batch[:, -1] = 1  # at last, so that a kill leaves no half of a batch that looks whole
        return torch.from_numpy(batch[:, :-1].astype(np.float32))

    def _index(self, step: int) -> int:
        return step % (self._views * self._steps_per_epoch)

    def _file(self, size: int) -> np.memmap:
        if size not in self._files:
            path = cache_folder() / "teachers" / f"{self._name}-{size}.npy"
            self._files[size] = _open(path, self._shape)
        return self._files[size]


def _open(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """The array in a file, of zeros at first; other files that nobody has used for long are deleted."""
    if not path.exists():
        with replacing(path) as temporary:
            open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape).flush()
            with temporary.open("r+b") as file:  # else a disk that fills up later ends the process by SIGBUS
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    path.touch()
    for other in path.parent.glob("*.npy"):
        with suppress(FileNotFoundError):  # another process was first
            if other != path and time.time() - other.stat().st_mtime > UNUSED_S:
                other.unlink()
    try:
        array = open_memmap(path, mode="r+")
    except ValueError as error:
        raise ValueError(f"{path} must hold teacher logits, got a broken file ({error}); delete it") from None
    if array.shape != shape or array.dtype != np.float16:
        raise ValueError(f"{path} must hold teacher logits of shape {shape}, got {array.shape}; delete it")
    return array
