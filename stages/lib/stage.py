"""How a stage starts, under torchrun where that is asked for, and how it ends when something is wrong."""

import itertools
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Self, TypeVar

import psutil
from tqdm import tqdm

Item = TypeVar("Item")

LAUNCHER = "TRAIN_LAUNCHER"
LINE_EVERY_S = 10
INIT = 1  # the process that adopts orphans


class Ancestors:
    """The processes from this one up to DVC, which may have a shell between them that outlives it."""

    def __init__(self) -> None:
        """Look at them now."""
        ancestors = [psutil.Process(), *psutil.Process().parents()] if "DVC_STAGE" in os.environ else []
        self._below_dvc = list(itertools.takewhile(_started_by_dvc, ancestors))
        self._parents = [process.ppid() for process in self._below_dvc]

    def dvc_is_gone(self) -> bool:
        """Whether DVC started this process and has died since, even before this object was made."""
        try:
            parents = [process.ppid() for process in self._below_dvc]
            return parents != self._parents or (parents[-1:] == [INIT] and not _is_dvc(INIT))
        except psutil.NoSuchProcess:
            return True


def _started_by_dvc(process: psutil.Process) -> bool:
    try:
        return "DVC_STAGE" in process.environ()
    except psutil.Error:  # another user's, so not of this run
        return False


def _is_dvc(pid: int) -> bool:
    try:
        return any("dvc" in part for part in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


ANCESTORS = Ancestors()  # before torch is imported, which takes seconds


@contextmanager
def one_line_errors(stage: str) -> Iterator[None]:
    """End the process with one line and exit code 1 on a ValueError or OSError, which the library words for users.

    A group of them ends it with a line for each. Full memory, of a GPU too, ends it likewise, in words of ours.
    Ctrl-C ends it with one line, too, and 130; training, which saves its state first, has a line of its own. SIGTERM
    ends it with 143, after temporary files are deleted.
    """
    try:
        with _signal_raises(signal.SIGTERM):
            yield
    except FileNotFoundError as error:
        sys.exit(f"{stage}: {error.filename or _one_line(error)} is missing; dvc repro makes it first")
    except (ValueError, OSError) as error:
        sys.exit(f"{stage}: {_one_line(error)}")
    except ExceptionGroup as group:
        sys.exit("\n".join(f"{stage}: {_one_line(error)}" for error in group.exceptions))
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, which not every stage imports
            sys.exit(f"{stage}: the GPU is out of memory; lower batch_size in params.yaml")
        if not isinstance(error, MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        sys.exit(f"{stage}: out of memory; lower batch_size or data.image_size in params.yaml, or use fewer images")
    except KeyboardInterrupt:
        print(f"{stage}: interrupted; the same command starts it again", file=sys.stderr)
        sys.exit(130)


@contextmanager
def _signal_raises(number: int) -> Iterator[None]:
    """Let a signal end the process by SystemExit, so that what is open is closed."""

    def end(*_: object) -> None:
        raise SystemExit(128 + number)

    def end_after_all(dropped: "sys.UnraisableHookArgs") -> None:
        """Send a signal again that came during a finalizer or a weak reference's callback, where Python drops it."""
        if isinstance(dropped.exc_value, (SystemExit, KeyboardInterrupt)):
            again = number if isinstance(dropped.exc_value, SystemExit) else signal.SIGINT
            threading.Timer(0.1, os.kill, [os.getpid(), again]).start()
        else:
            hook(dropped)

    before, hook = signal.signal(number, end), sys.unraisablehook
    sys.unraisablehook = end_after_all
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(number, before)


def _one_line(error: Exception) -> str:
    """Its message; those of libraries may have several lines."""
    return printable(" ".join(str(error).split()))


def printable(text: str) -> str:
    """The text without characters that a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class Steps:
    """Shows how much of some work is done, with the time left: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, total: int, *, unit: str) -> None:
        self._bar = tqdm(total=total, disable=None, leave=False, unit=unit)
        self._total, self._unit, self._done = total, unit, 0
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self) -> None:
        """One more is done."""
        self._bar.update()
        self._done += 1
        now = time.monotonic()
        if self._bar.disable and now - self._shown > LINE_EVERY_S and self._done < self._total:
            self._shown = now
            left = timedelta(seconds=round((now - self._started) * (self._total - self._done) / self._done))
            print(f"{self._unit} {self._done} of {self._total}  left {left}", flush=True)


def track(items: Sequence[Item], *, unit: str) -> Iterator[Item]:
    """The items, with `Steps` shown while they are worked on."""
    with Steps(len(items), unit=unit) as steps:
        for item in items:
            yield item
            steps.advance()


def relaunch(module: str) -> None:
    """Start `python -m module` again under the command in the environment variable TRAIN_LAUNCHER, if there is one.

    Raises:
        ValueError: If the command can't be started.
    """
    launcher = shlex.split(os.environ.get(LAUNCHER, ""))
    if not launcher or "LOCAL_RANK" in os.environ:
        return
    sys.stdout.flush()
    try:
        os.execvp(launcher[0], [*launcher, "-m", module, *sys.argv[1:]])  # the same process, so DVC's signals reach it
    except OSError as error:
        raise ValueError(
            f"{LAUNCHER} must be a command such as 'torchrun --nproc-per-node 2', got {shlex.join(launcher)!r} "
            f"({error.strerror}); fix or unset it"
        ) from None
