"""State of an unfinished training, so that it can be killed at any moment and go on.

It lives outside DVC and outside the work tree, because DVC deletes a stage's outputs before it runs the stage again:
in `RESUME_DIR`, or the user's cache folder.
"""

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stages.lib.artifacts import cache_folder, lock, replacing, user_path
from stages.lib.stage import ANCESTORS

WAIT_S = 0.5


def fingerprint(*parts: bytes | memoryview) -> str:
    """A name for what `parts` say; another code, parameter or image gives another name."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


def code_of(*rooms: str) -> list[bytes]:
    """The source files of these rooms."""
    lib = Path(__file__).parents[1]
    return [path.read_bytes() for room in rooms for path in sorted((lib / room).glob("*.py"))]


@dataclass(frozen=True)
class ResumeFile:
    """Where the training called `name` keeps its state."""

    name: str

    @property
    def path(self) -> Path:
        """The file, which may not exist."""
        folder = os.environ.get("RESUME_DIR")
        return (user_path(folder) if folder else cache_folder() / "resume") / f"{self.name}.safetensors"

    def check_place(self, num_bytes: int) -> None:
        """Find out before training begins whether states can be saved.

        Raises:
            ValueError: If the folder can't be written, or has no room for two states of `num_bytes`.
        """
        try:
            with replacing(self.path.with_suffix(".test")) as temporary:
                temporary.write_bytes(b"test")
            self.path.with_suffix(".test").unlink(missing_ok=True)
            free = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise ValueError(
                f"training must save its state in {self.path.parent}, which can't be written ({error.strerror}); "
                "set RESUME_DIR to a folder that can"
            ) from None
        if free < 2 * num_bytes:
            raise ValueError(
                f"training must have {2 * num_bytes / 1e6:.0f} MB free in {self.path.parent} for its state, got "
                f"{free / 1e6:.0f}; free some, or set RESUME_DIR to another disk"
            )

    @contextmanager
    def alone(self, stop: Callable[[], bool]) -> Iterator[None]:
        """Wait until no other process trains the same; then none does for as long as the block runs.

        The other process leaves its finished state to those that wait, who then have nothing to train.

        Raises:
            SystemExit: If `stop` says so meanwhile.
        """
        with lock(self.path.with_suffix(".waiting"), fcntl.LOCK_SH), ExitStack() as held:
            for attempt in itertools.count():
                try:
                    held.enter_context(lock(self.path.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB))
                    break
                except BlockingIOError:
                    if attempt == 0:
                        print(f"another process is training the same model; waiting for it ({self.path})", flush=True)
                if stop():
                    raise SystemExit(128 + signal.SIGTERM)
                time.sleep(WAIT_S)
            yield

    def save(self, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
        """Replace what was saved before."""
        text = json.dumps(state)
        # One entry only: safetensors writes several in random order. And not by its own hand, which would leave a file
        # of another name behind when it is killed.
        metadata = {"state": json.dumps({"digest": _digest(tensors, text), "text": text})}
        with replacing(self.path) as temporary:
            temporary.write_bytes(save(tensors, metadata=metadata))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `save` was last given, or None; a damaged file counts as none and says so."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                state = json.loads(file.metadata()["state"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            if _digest(tensors, state["text"]) != state["digest"]:
                raise ValueError("its digest differs")
            return tensors, json.loads(state["text"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            print(f"resume file {self.path} is damaged ({error}); starting over", flush=True)
            return None

    def delete(self) -> None:
        """Forget the state, after success, unless another process waits for it."""
        try:
            with lock(self.path.with_suffix(".waiting"), fcntl.LOCK_EX | fcntl.LOCK_NB) as waiting:
                self.path.unlink(missing_ok=True)
                self.path.with_suffix(".lock").unlink(missing_ok=True)
                waiting.unlink(missing_ok=True)
        except BlockingIOError:
            pass


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    named = [part for name in sorted(tensors) for part in (name.encode(), tensors[name].numpy().tobytes())]
    return fingerprint(text.encode(), *named)


class StopRequest:
    """Says whether to stop: after SIGINT or SIGTERM, or when DVC has died and left its stage running."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Whether to stop now."""
        if ANCESTORS.dvc_is_gone():
            self.signal = signal.SIGTERM
        return self.signal is not None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            raise SystemExit(128 + number)  # a second signal doesn't wait
        self.signal = number


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
