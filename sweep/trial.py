"""What one trial does, on whatever node: clone, pull the base, run the experiment, bring it back."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.lib.params import PARAMS_FILE, load_params
from sweep.plan import Trial

REMOTE = "sweep"  # DVC's name for the storage that all nodes share


@dataclass(frozen=True)
class Storage:
    """What all nodes reach.

    Attributes:
        git: Address of the repository.
        commit: The baseline.
        dvc: Address of a DVC remote.
        resume: A folder for states of unfinished trainings, None for each node's own.
    """

    git: str
    commit: str
    dvc: str
    resume: str | None


def run(command: Sequence[str], *, folder: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed.

    Raises:
        ChildProcessError: With the last lines of its output, if it fails.
    """
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).splitlines()
        last = " | ".join(line.strip() for line in said[-5:] if line.strip())
        raise ChildProcessError(f"`{' '.join(command)}` exited with {done.returncode}: {last}")
    return done.stdout


def experiment_ref(storage: Storage, name: str) -> str:
    """Where git keeps an experiment."""
    return f"refs/exps/{storage.commit[:2]}/{storage.commit[2:]}/{name}"


def is_done(storage: Storage, name: str) -> bool:
    """Whether the repository has the experiment."""
    return bool(run(["git", "ls-remote", storage.git, experiment_ref(storage, name)]).strip())


def run_trial(trial: Trial, storage: Storage, *, threads: int) -> str:
    """Make the experiment, or find it made; returns the name of this node.

    Raises:
        ChildProcessError: If a command fails, or the experiment didn't arrive.
    """
    node = os.uname().nodename
    if is_done(storage, trial.name):
        return node
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(threads),
        **{f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in IDENTITY.items()},
    }
    environment.pop("PYTHONPATH", None)  # the clone's own code runs
    if storage.resume is not None:
        environment["RESUME_DIR"] = storage.resume
    with tempfile.TemporaryDirectory(prefix="sweep-") as name:
        clone = Path(name) / "clone"  # not shallow, which dvc exp can't use
        run(["git", "clone", "--quiet", storage.git, str(clone)])

        def do(*command: str) -> None:
            run(command, folder=clone, environment=environment)

        do("git", "checkout", "--quiet", "--detach", storage.commit)
        for folder in (load_params(clone / PARAMS_FILE).data.folder, Path("external/checkpoints")):  # git has neither
            if not folder.is_absolute() and (source := Path(storage.git) / folder).is_dir():
                shutil.copytree(source, clone / folder, dirs_exist_ok=True)
        do("dvc", "remote", "add", "--quiet", "--local", "--force", REMOTE, storage.dvc)
        do("dvc", "pull", "--quiet", "--remote", REMOTE, "train")
        changes = [f"--set-param={change}" for change in trial.changes]
        do("dvc", "exp", "run", "--quiet", "--name", trial.name, *changes, *trial.targets)
        do("dvc", "push", "--quiet", "--remote", REMOTE)  # first, since the reference says that all is there
        do("dvc", "exp", "push", "--quiet", "--no-cache", storage.git, trial.name)
    if not is_done(storage, trial.name):  # a push that fails only warns
        raise ChildProcessError(f"experiment {trial.name} didn't arrive at {storage.git}; is it writable?")
    return node


IDENTITY = {"NAME": "sweep", "EMAIL": "sweep@localhost"}
