"""Engines that do nothing much. The processes that run them import this module, so it imports little."""

import os
import time
from pathlib import Path
from threading import Timer

from stages.lib.profiling import measuring


class Sleeper:
    """An engine that waits, counts its calls, and knows its process."""

    def __init__(self, sleep_ms: float) -> None:
        self.sleep_ms = sleep_ms
        self.calls = 0

    def run(self) -> None:
        self.calls += 1
        time.sleep(self.sleep_ms / 1000)

    def facts(self) -> measuring.Facts:
        return {"calls": self.calls, "pid": os.getpid()}


class Broken(Sleeper):
    """An engine that fails in its third call."""

    def run(self) -> None:
        super().run()
        if self.calls == 3:
            raise RuntimeError("out of ideas")


class Dying(Sleeper):
    """An engine whose process dies without a word."""

    def run(self) -> None:
        os._exit(9)


class DyingLater(Sleeper):
    """An engine whose process dies between two turns."""

    def run(self) -> None:
        super().run()
        if self.calls == 1:
            Timer(1.5 * measuring.WARM_UP_S, os._exit, (9,)).start()


class Diarist:
    """An engine that writes its name into a shared file each time it runs."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def run(self) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self.name)
        time.sleep(0.01)

    def facts(self) -> measuring.Facts:
        return {}


def refuse() -> Sleeper:
    raise ValueError("no such model")
