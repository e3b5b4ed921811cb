"""Every stage killed at random moments: nothing half-written is taken for whole, and the next run goes on."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.reliability.commands import commands, lasting
from tests.repository import Repository

pytestmark = pytest.mark.slow

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VICTIMS = ("group", "dvc", "stage")
LONGEST_S = 3  # about what most stages take on so little data
STRAYS = (".safetensors", ".onnx", ".npz", ".packed", ".tmp")


def check_nothing_is_half_written(repository: Repository, *states: dict[str, bytes]) -> None:
    """Each output is missing or that of one of the states, and git would not take what doesn't belong in it."""
    for name, content in lasting(repository.path).items():
        if not name.endswith(".tmp"):
            assert content in [state.get(name) for state in states], name
    for path in repository.path.glob("reports/*.json"):
        json.loads(path.read_text())
    assert not [line for line in repository.run("git", "status", "--porcelain").splitlines() if line.endswith(STRAYS)]


def restore_lock_file(repository: Repository) -> None:
    """Do as the README says where DVC was killed while it wrote dvc.lock, which git does not track here."""
    listed = subprocess.run(
        ["dvc", "stage", "list"], cwd=repository.path, env=repository.environment, capture_output=True
    )
    if listed.returncode:
        assert b"dvc.lock' is invalid" in listed.stderr
        (repository.path / "dvc.lock").unlink()


def test_a_run_killed_in_every_stage_ends_with_the_files_of_an_undisturbed_one(
    finished: Repository, tmp_path: Path
) -> None:
    repository = Repository(tmp_path / "Übung mit Leerzeichen" / "repository")
    finished.run("git", "clone", "--quiet", ".", str(repository.path))
    repository.run("git", "checkout", "--quiet", "HEAD~1")  # before anything has run
    before, whole = lasting(repository.path), lasting(finished.path)
    moments = random.Random(0)
    kinds = itertools.cycle(itertools.product(VICTIMS, SIGNALS))
    killed: set[str] = set()
    ends = []
    while not ends or ends[-1] != 0:
        with subprocess.Popen(
            ["dvc", "repro"],
            cwd=repository.path,
            env=repository.environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as run:
            assert run.stdout is not None
            for line in run.stdout:
                stage = line.removeprefix("Running stage '").partition("'")[0].partition("@")[0]
                if not line.startswith("Running stage") or stage in killed:
                    continue
                killed.add(stage)
                victim, number = next(kinds)
                time.sleep(moments.uniform(0.2, LONGEST_S))
                with suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has ended in time
                    children = psutil.Process(run.pid).children(recursive=True)
                    below = [child for child in children if "-m" in child.cmdline()]
                    if victim == "group":
                        os.killpg(run.pid, number)
                    for process in {"group": [], "dvc": [run], "stage": below}[victim]:
                        process.send_signal(number)
        ends.append(run.returncode)
        check_nothing_is_half_written(repository, before, whole)
        restore_lock_file(repository)
        assert len(ends) < 3 * len(commands())
    assert killed == {each.stage for each in commands()}
    assert len(ends) > len(killed) / 2  # at least as many were hit, and not between two stages
    assert lasting(repository.path) == whole
    assert repository.repro() == set()


def test_a_stage_killed_without_dvc_leaves_what_was_there(finished: Repository, tmp_path: Path) -> None:
    repository = finished.duplicate(tmp_path)
    whole = lasting(repository.path)
    moments = random.Random(1)
    for command, number in itertools.product(commands(), SIGNALS):
        stage = subprocess.Popen(
            [sys.executable, "-m", f"stages.{command.stage}", *command.arguments],
            cwd=repository.path,
            env=repository.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(moments.uniform(0.5, LONGEST_S))
        stage.send_signal(number)
        _, said = stage.communicate(timeout=60)
        assert "Traceback" not in said, (command, number, said)
        check_nothing_is_half_written(repository, whole)
        present = lasting(repository.path)
        assert not [name for name in whole if name not in present], (command, number)
