"""State of an unfinished training, so that it can be killed at any moment and go on.

It lives outside DVC and outside the work tree, because DVC deletes a stage's outputs before it runs the stage again:
in `RESUME_DIR`, or the user's cache folder.
"""

import hashlib
import itertools
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stages.lib.artifacts import cache_folder, replacing


def fingerprint(*parts: bytes | memoryview) -> str:
    """A name for what `parts` say; another code, parameter or image gives another name."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class ResumeFile:
    """Where the training called `name` keeps its state."""

    name: str

    @property
    def path(self) -> Path:
        """The file, which may not exist."""
        folder = os.environ.get("RESUME_DIR")
        return (Path(folder) if folder else cache_folder() / "resume") / f"{self.name}.safetensors"

    def save(self, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
        """Replace what was saved before."""
        with replacing(self.path) as temporary:
            # Not by safetensors' own hand, which would leave a file of another name behind when it is killed.
            temporary.write_bytes(save(tensors, metadata={"state": json.dumps(state)}))

    def load(self) -> tuple[dict[str, Tensor], dict] | None:  # type: ignore[type-arg]
        """What `save` was last given, or None; an unreadable file counts as none and says so."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                state = json.loads(file.metadata()["state"])
                return {key: file.get_tensor(key) for key in file.keys()}, state  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            print(f"resume file {self.path} is unreadable ({error}); starting over", flush=True)
            return None

    def delete(self) -> None:
        """Forget the state, after success."""
        self.path.unlink(missing_ok=True)


class StopRequest:
    """Says whether to stop: after SIGINT or SIGTERM, or when DVC has died and left its stage running."""

    def __init__(self) -> None:
        self.signal: int | None = None
        # From this process up to DVC, which may have a shell between them that outlives it.
        self._below_dvc: list[psutil.Process] = []
        if "DVC_STAGE" in os.environ:
            ancestors = [psutil.Process(), *psutil.Process().parents()]
            self._below_dvc = list(itertools.takewhile(_started_by_dvc, ancestors))
        self._parents = [process.ppid() for process in self._below_dvc]

    def __call__(self) -> bool:
        """Whether to stop now."""
        try:
            orphaned = [process.ppid() for process in self._below_dvc] != self._parents
        except psutil.NoSuchProcess:
            orphaned = True
        if orphaned:
            self.signal = signal.SIGTERM
        return self.signal is not None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            raise SystemExit(128 + number)  # a second signal doesn't wait
        self.signal = number


def _started_by_dvc(process: psutil.Process) -> bool:
    try:
        return "DVC_STAGE" in process.environ()
    except psutil.Error:  # another user's, so not of this run
        return False


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request for as long as the block runs."""
    request = StopRequest()
    before = {number: signal.signal(number, request._receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
