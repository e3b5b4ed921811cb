"""Places that refuse: what is needed is checked first, one line names the way out, and nothing is lost."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.commands import Command, commands, files, lasting
from tests.repository import Repository

pytestmark = pytest.mark.slow

NAMELESS = ["unshare", "--user", "--map-user=12345"]  # a user id without a name, to whom permissions apply


def can_become_nameless() -> bool:
    try:
        return subprocess.run([*NAMELESS, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def repository(finished: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return finished.duplicate(tmp_path_factory.mktemp("places"))


def ended(
    repository: Repository,
    *command: str,
    before: Callable[[], None] | None = None,
    environment: dict[str, str | None] | None = None,
) -> tuple[int, str, list[str]]:
    """Run a command; returns its exit code, what it printed, and the lines of its errors."""
    changes = repository.environment | (environment or {})
    done = subprocess.run(
        command,
        cwd=repository.path,
        env={key: value for key, value in changes.items() if value is not None},
        preexec_fn=before,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.stage)
def test_a_disk_that_fills_up_while_a_stage_writes_costs_a_line_and_nothing_else(
    repository: Repository, command: Command
) -> None:
    before = files(repository.path, command.outputs)
    largest = max(map(len, before.values()))
    # A file may grow to half of the largest output, as on a disk that is full then.
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, resource.RLIM_INFINITY))  # noqa: E731
    code, _, errors = ended(
        repository, sys.executable, "-m", f"stages.{command.stage}", *command.arguments, before=limit
    )
    assert (code, len(errors)) == (1, 1), errors
    assert errors[0].startswith(f"{command.stage}: ") and ("too large" in errors[0] or "free some space" in errors[0])
    after = files(repository.path, command.outputs)
    assert after == before or command.stage in {"report", "profile"}


needs_nameless = pytest.mark.skipif(not can_become_nameless(), reason="needs unprivileged user namespaces")


@needs_nameless
def test_a_home_that_cannot_be_written_is_told_before_training(repository: Repository, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    places = {"HOME": str(tmp_path), "RESUME_DIR": None, "XDG_CACHE_HOME": None}
    code, said, errors = ended(repository, *NAMELESS, sys.executable, "-m", "stages.train", environment=places)
    assert (code, "epoch" in said) == (1, False)
    (error,) = errors
    assert "can't be written" in error and error.endswith("set RESUME_DIR to a folder that can")


@needs_nameless
def test_a_user_without_a_name_or_a_home_is_told_what_to_set(repository: Repository, tmp_path: Path) -> None:
    nobody: dict[str, str | None] = {"HOME": None, "RESUME_DIR": None, "XDG_CACHE_HOME": None}
    command = [*NAMELESS, sys.executable, "-m", "stages.train"]
    code, _, errors = ended(repository, *command, environment=nobody)
    assert (code, len(errors)) == (1, 1), errors
    assert errors[0].endswith("set HOME or XDG_CACHE_HOME")
    code, said, errors = ended(repository, *command, environment=nobody | {"RESUME_DIR": str(tmp_path)})
    assert (code, "epoch" in said) == (0, True), errors


@needs_nameless
@pytest.mark.parametrize("command", commands(), ids=lambda command: command.stage)
def test_outputs_that_cannot_be_written_are_told_in_a_line(repository: Repository, command: Command) -> None:
    whole = lasting(repository.path)
    folders = {(repository.path / path).parent for path in command.outputs}
    folders |= {repository.path / path for path in command.outputs if (repository.path / path).is_dir()}
    for folder in folders:
        folder.chmod(0o555)
    try:
        arguments = ["-m", f"stages.{command.stage}", *command.arguments]
        code, _, errors = ended(repository, *NAMELESS, sys.executable, *arguments)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (code, len(errors)) == (1, 1), errors
    assert errors[0].startswith(f"{command.stage}: ") and "Permission denied" in errors[0]
    assert lasting(repository.path) == whole


def test_another_folder_than_the_top_is_told_in_a_line(repository: Repository) -> None:
    elsewhere = Repository(repository.path / "reports")
    for command in (("dvc", "repro"), (sys.executable, "-m", "stages.train")):
        code, _, errors = ended(elsewhere, *command)
        assert code != 0 and not any("Traceback" in line for line in errors)
