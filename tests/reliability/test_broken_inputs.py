"""Broken files: a stage ends with a line that names the file, and what was there stays."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.commands import Command, commands, files, lasting
from tests.repository import Repository

pytestmark = pytest.mark.slow

DAMAGES = {
    "empty": lambda _: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "nonsense": lambda content: bytes(range(256)) * (len(content) // 256 + 1),
}
# Empty here, so they have tests of their own.
OPTIONAL = {"photos", "external/checkpoints", "external/onnx", "reports/machines", "reports/findings.md"}
# Named in dvc.yaml in place of others, and not read; nor do stages for classifiers from elsewhere read anything here.
NOT_READ = {("profile", "artifacts/adopted"), *((stage, None) for stage in ("pack", "adopt", "evaluate_adopted"))}


@pytest.fixture(scope="module")
def repository(finished: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return finished.duplicate(tmp_path_factory.mktemp("broken"))


def cases() -> Iterator[tuple[Command, str]]:
    """Each stage with each of its input files, and the largest file of each of its folders."""
    for command in commands():
        for path in command.inputs:
            if path not in OPTIONAL and not {(command.stage, path), (command.stage, None)} & NOT_READ:
                yield command, path


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("command", "path"), list(cases()), ids=lambda each: getattr(each, "stage", each))
def test_a_damaged_input_is_named_in_a_line_and_costs_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, command: Command, path: str, damage: str
) -> None:
    monkeypatch.chdir(repository.path)
    monkeypatch.setattr(sys, "argv", [command.stage, *command.arguments])
    monkeypatch.delitem(sys.modules, f"stages.{command.stage}", raising=False)  # runpy warns of it
    before = files(Path(), command.outputs)
    name, content = max(files(Path(), [path]).items(), key=lambda item: len(item[1]))
    Path(name).write_bytes(DAMAGES[damage](content))
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"stages.{command.stage}", run_name="__main__", alter_sys=True)
    finally:
        Path(name).write_bytes(content)
    (line,) = str(ended.value.code).splitlines()
    assert line.startswith(f"{command.stage}: ") and name in line
    assert files(Path(), command.outputs) == before


def test_dvc_mends_what_was_damaged_behind_its_back(repository: Repository) -> None:
    whole = lasting(repository.path)
    for number, (name, content) in enumerate(whole.items()):
        if name.endswith((".safetensors", ".onnx", ".packed", ".npz", "base.json")):
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            (repository.path / name).unlink()  # it may be a link to the cache
            (repository.path / name).write_bytes(flipped)
            if number % 5 == 0:  # the cached copy, too
                for cached in (repository.path / ".dvc/cache/files/md5").rglob("*"):
                    if cached.is_file() and cached.read_bytes() == content:
                        cached.chmod(0o644)
                        cached.write_bytes(flipped)
    assert lasting(repository.path) != whole
    repository.repro()
    assert lasting(repository.path) == whole
