"""One command for each stage, and what it reads and writes, as dvc.yaml says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TIMED = ("artifacts/training", "artifacts/profile.json", "reports")  # hold seconds, so differ from run to run


@dataclass(frozen=True)
class Command:
    """A stage for one item of its matrix.

    Attributes:
        stage: Its name in dvc.yaml.
        arguments: Of `python -m stages.STAGE`.
        inputs: Files and folders that it reads, without code.
        outputs: Files and folders that it writes.
    """

    stage: str
    arguments: list[str]
    inputs: list[str]
    outputs: list[str]


def _paths(entries: list[Any]) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def commands() -> list[Command]:
    """One for each stage, in the order of dvc.yaml."""
    result = []
    for stage, said in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        words = said["cmd"].split()[3:]
        inputs, outputs = (
            _paths(said["deps"]),
            [path for kind in ("outs", "metrics", "plots") for path in _paths(said.get(kind, []))],
        )
        for key, values in said.get("matrix", {}).items():
            place = f"${{item.{key}}}"
            words, inputs, outputs = (
                [text.replace(place, values[0]) for text in texts] for texts in (words, inputs, outputs)
            )
        inputs = [path for path in inputs if not path.startswith("stages/")]
        result.append(Command(stage, words, inputs, outputs))
    return result


def files(folder: Path, paths: list[str]) -> dict[str, bytes]:
    """The content of these files, and of those in these folders."""
    found = [file for path in paths for file in (sorted((folder / path).rglob("*")) or [folder / path])]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found if file.is_file()}


def lasting(folder: Path) -> dict[str, bytes]:
    """The content of all outputs that are the same bytes on every run."""
    outputs = files(folder, ["data", "artifacts", "metrics.json"])
    return {name: content for name, content in outputs.items() if not name.startswith(TIMED)}
