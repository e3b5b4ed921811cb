"""Latency on a noisy machine: every engine in a process of its own, all of them taking turns.

A process of its own, because ONNX Runtime's threads spin between calls and steal cores from PyTorch beside them. Turns,
because a busy moment of the machine then hits all engines, and their ratio holds. Nothing here imports torch.
"""

import multiprocessing
import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from stages.lib.stage import track

WARM_UP_S = 0.1  # of untimed calls at the start of each turn: until then the system may run two threads on one core

Facts = dict[str, float | str | None]


class Engine(Protocol):
    """Runs one model."""

    def run(self) -> None:
        """The call that is timed."""

    def facts(self) -> Facts:
        """What else there is to know, asked for after all turns."""


@dataclass(frozen=True)
class Measurement:
    """What a worker found.

    Attributes:
        latencies_ms: Of each timed call, (rounds * calls_per_round,).
        facts: Of its engine.
    """

    latencies_ms: np.ndarray
    facts: Facts

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies; 50 is the median."""
        return float(np.percentile(self.latencies_ms, percent))

    def rounds_ms(self, rounds: int) -> np.ndarray:
        """The median of the latencies in each round, (rounds,)."""
        medians: np.ndarray = np.median(self.latencies_ms.reshape(rounds, -1), axis=1)
        return medians


class Worker:
    """The parent's end of a process that holds one engine."""

    def __init__(self, name: str, make_engine: Callable[[], Engine]) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, make_engine), daemon=True)
        self._process.start()
        theirs.close()  # so that the death of the process ends the connection

    def wait_until_ready(self) -> None:
        """Wait until the engine is made."""
        self._receive()

    def time_calls(self, num_calls: int) -> list[float]:
        """Let it take a turn; returns the latency of each call in milliseconds."""
        latencies_ms: list[float] = self._ask(num_calls)
        return latencies_ms

    def facts(self) -> Facts:
        """Ask for the engine's facts."""
        facts: Facts = self._ask(None)
        return facts

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _ask(self, request: int | None) -> Any:
        with suppress(OSError):  # if the process has died meanwhile, there is nothing to receive either
            self._connection.send(request)
        return self._receive()

    def _receive(self) -> Any:
        try:
            reply, problem = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            reply, problem = None, f"its process died with exit code {self._process.exitcode}; is there enough memory?"
        if problem is not None:
            raise ChildProcessError(f"{self._name}: {problem}")
        return reply


def measure(
    engines: Mapping[str, Callable[[], Engine]], *, rounds: int, calls_per_round: int
) -> dict[str, Measurement]:
    """Time all engines, round after round in a shuffled order.

    Args:
        engines: What makes each engine in its process, by name; picklable.
        calls_per_round: Timed calls of an engine in a round.

    Raises:
        ChildProcessError: If an engine fails or its process dies.
    """
    shuffler = random.Random(0)
    with ExitStack() as stack:  # ends all processes, whatever happens
        workers: dict[str, Worker] = {}
        for name, make_engine in engines.items():
            workers[name] = worker = Worker(name, make_engine)
            stack.callback(worker.stop)
        for worker in workers.values():
            worker.wait_until_ready()
        latencies: dict[str, list[float]] = {name: [] for name in workers}
        names = list(workers)
        for _ in track(range(rounds), unit="round"):
            shuffler.shuffle(names)
            for name in names:
                latencies[name] += workers[name].time_calls(calls_per_round)
        return {name: Measurement(np.array(latencies[name]), worker.facts()) for name, worker in workers.items()}


def _work(connection: Connection, make_engine: Callable[[], Engine]) -> None:
    """The worker's side: say when ready, then answer each request until the parent goes away; (reply, problem)."""
    try:
        engine = make_engine()
        connection.send((None, None))
        while True:
            num_calls = connection.recv()
            connection.send((engine.facts() if num_calls is None else _time_calls(engine, num_calls), None))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        pass
    except Exception as error:  # the parent tells the user, whatever it is
        connection.send((None, f"{type(error).__name__}: {error}"))


def _time_calls(engine: Engine, num_calls: int) -> list[float]:
    warm = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < warm:
        engine.run()
    latencies_ms = []
    for _ in range(num_calls):
        start = time.perf_counter()
        engine.run()
        latencies_ms.append(1000 * (time.perf_counter() - start))
    return latencies_ms
