"""A copy of this repository in which DVC runs."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from stages.lib.params import load_params, render_params

ROOT = Path(__file__).parents[1]
# What makes a run of any preset take seconds.
TINY = {
    "data__limit_per_class": 8,
    "data__val_per_class": 2,
    "model__width": 0.1,
    "model__stem_stride": 1,
    "train__epochs": 1,
    "train__warmup_epochs": 0.5,
    "finetune__epochs": 1,
    "finetune__warmup_epochs": 0.5,
    "prune__ratio": 0.2,
    "prune__round_to": None,
    "prune__reconstruction_images": 16,
    "prune__batch_norm_images": 16,
    "lowrank__images": 16,
    "lowrank__round_to": 1,
    "distill__epochs": 1,
    "distill__warmup_epochs": 0.5,
    "distill__width": 0.5,
    "distill__round_to": None,
    "distill__reconstruction_images": 16,
    "squeeze__epochs": 1,
    "squeeze__warmup_epochs": 0.5,
    "squeeze__reconstruction_images": 16,
    "quantize__calibration_images": [16],
    "quantize__calibration_methods": ["minmax"],
    "profile__rounds": 1,
    "profile__calls_per_round": 2,
    "profile__threads": 1,
}


class Repository:
    """A repository at `path`, with caches beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RESUME_DIR": str(path.parent / "resume"),
            "OMP_NUM_THREADS": "1",
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@localhost",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@localhost",
        }

    @classmethod
    def copy(cls, path: Path, *, preset: str, **changes: object) -> "Repository":
        """The files that git tracks or would, with a preset's parameters but for `changes`, committed."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
        ).stdout.splitlines()
        for name in listed:
            if (ROOT / name).is_file() and name.split("/")[0] not in {"models", "tests"}:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        (path / "dvc.lock").unlink(missing_ok=True)
        params = load_params(ROOT / "presets" / f"{preset}.yaml", complete=False)
        (path / "params.yaml").write_text(render_params(params))
        repository = cls(path)
        repository.set(**changes)
        repository.run("git", "init", "--quiet")
        repository.commit("start")
        return repository

    def duplicate(self, folder: Path) -> "Repository":
        """The same with all that has run in it, in an empty folder."""
        shutil.copytree(self.path, folder / "repository", symlinks=True)
        return Repository(folder / "repository")

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command in it that must exit with `code`; returns what it printed."""
        done = subprocess.run(command, cwd=self.path, env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def repro(self) -> set[str]:
        """Run `dvc repro`; returns the stages that really ran."""
        output = self.run("dvc", "repro")
        return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}

    def set(self, **values: object) -> None:
        """Change parameters, as `section__name=value`."""
        path = self.path / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for name, value in values.items():
            section, _, key = name.partition("__")
            if key:
                params[section][key] = value
            else:
                params[section] = value
        path.write_text(yaml.safe_dump(params))

    def go_back(self) -> None:
        """To what is committed."""
        self.run("git", "checkout", "--", ".")
        self.run("dvc", "checkout", "--quiet")


def wait_until(condition: Callable[[], object], *, seconds: float = 120, every: float = 0.1) -> None:
    """Wait at most so long, asking every so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(every)
