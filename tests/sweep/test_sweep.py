"""A sweep on a Ray cluster of three nodes on this machine, of which one is lost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.lib.params import PARAMS_FILE
from sweep import trial as trials
from sweep.plan import Trial, read_plan
from sweep.trial import REMOTE, Storage, is_done, run, run_trial
from tests.repository import ROOT, TINY, Repository, wait_until

pytestmark = pytest.mark.slow

PLAN = "prune.ratio: [0.4]\nprune.sparsity: [0.9]\nlowrank.macs_ratio: [0.8]\nfinetune.lr: 0.03\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with a trained base and a plan of four trials."""
    repository = Repository.copy(tmp_path_factory.mktemp("sweep") / "repository", preset="demo", **TINY)
    (repository.path / "sweep.yaml").write_text(PLAN)
    repository.run("dvc", "repro", "train")
    repository.commit("base")
    return repository


def experiments(repository: Repository) -> dict[str, str]:
    """The commit of each experiment, by its name."""
    lines = repository.run("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    found = dict(line.split() for line in lines)
    return {ref.rsplit("/", 1)[1]: commit for ref, commit in found.items() if "/sweep-" in ref}


def model_digest(repository: Repository, revision: str, model: str) -> str:
    """DVC's digest of the trained model in a revision."""
    locked = yaml.safe_load(repository.run("git", "show", f"{revision}:dvc.lock"))
    (digest,) = (
        out["md5"]
        for stage in locked["stages"].values()
        for out in stage.get("outs", [])
        if out["path"] == f"artifacts/models/{model}.safetensors"
    )
    return str(digest)


def test_all_trials_arrive_though_a_node_is_lost_and_are_those_done_by_hand(repository: Repository) -> None:
    from ray.cluster_utils import Cluster

    trials = read_plan(PLAN, (repository.path / PARAMS_FILE).read_text())
    assert len(trials) == 4
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        command = ["python", "-m", "sweep", "--address", cluster.address, "--cpus-per-trial", "1"]
        driver = subprocess.Popen(
            command, cwd=repository.path, env=repository.environment, stdout=subprocess.PIPE, text=True
        )
        try:
            wait_until(lambda: experiments(repository) or driver.poll() is not None, seconds=600)
            cluster.remove_node(nodes[0], allow_graceful=False)  # in the middle of a trial
            output, _ = driver.communicate(timeout=600)
        finally:
            driver.kill()
        assert driver.returncode == 0, output
    finally:
        cluster.shutdown()
    found = experiments(repository)
    assert set(found) == {trial.name for trial in trials}

    results = json.loads((repository.path / "reports/sweep.json").read_text())
    assert [each["name"] for each in results["candidates"]] == [trial.name for trial in trials]
    assert "| `lowrank` | `lowrank.macs_ratio=0.8` |" in (repository.path / "reports/sweep.md").read_text()
    assert "rebuild it: dvc exp apply sweep-" in repository.run("python", "-m", "sweep", "choose", "--max-mb", "10")

    again = repository.run("python", "-m", "sweep", "--cpus-per-trial", "1")
    assert "4 trials, 4 of them already done" in again
    assert experiments(repository) == found

    by_hand: list[Trial] = [trials[1], trials[2]]  # structured and unstructured
    for trial in by_hand:
        target = f"finetune@{trial.model}"
        changes = [f"--set-param={change}" for change in trial.changes]
        repository.run("dvc", "exp", "run", "--name", f"hand-{trial.name}", *changes, target)
        reference = repository.run("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/hand-{trial.name}")
        assert model_digest(repository, reference.strip(), trial.model) == model_digest(
            repository, found[trial.name], trial.model
        )
        repository.run("git", "checkout", "--", ".")


def test_a_trial_lost_while_it_trains_goes_on_from_its_state_on_shared_storage(
    finished: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = finished.duplicate(tmp_path)
    repository.set(finetune__epochs=60)
    repository.commit("longer fine-tuning")
    commit, remote, states = (
        repository.run("git", "rev-parse", "HEAD").strip(),
        tmp_path / "remote",
        tmp_path / "states",
    )
    storage = Storage(str(repository.path), commit, str(remote), str(states))
    repository.run("dvc", "remote", "add", "--quiet", "--local", REMOTE, str(remote))
    repository.run("dvc", "push", "--quiet", "--remote", REMOTE, "train")
    (_, trial) = read_plan("prune.ratio: [0.4]\n", (repository.path / PARAMS_FILE).read_text())

    (repository.path / "photos" / "train").mkdir()
    (repository.path / "photos" / "train" / "1.jpg").touch()  # git doesn't have it

    work = f"from sweep.trial import Storage, Trial, run_trial\nrun_trial({trial}, {storage}, threads=1)"
    node = subprocess.Popen([sys.executable, "-c", work], cwd=ROOT, env=repository.environment, start_new_session=True)
    wait_until(lambda: list(states.glob("*.safetensors")))
    os.killpg(node.pid, signal.SIGKILL)
    node.wait()
    said: list[str] = []

    def watched(command: Sequence[str], *, folder: Path | None = None, environment: Any = None) -> str:
        if command[:3] == ("dvc", "exp", "run"):
            assert folder and (folder / "photos" / "train" / "1.jpg").is_file()
        said.append(run(command, folder=folder, environment=environment))
        return said[-1]

    monkeypatch.setattr(trials, "run", watched)
    run_trial(trial, storage, threads=1)
    assert "resuming at step" in "".join(said)
    assert is_done(storage, trial.name)


def test_uncommitted_changes_are_refused_in_one_line(repository: Repository) -> None:
    path: Path = repository.path / "README.md"
    text = path.read_text()
    path.write_text("changed")
    assert "sweep: a sweep clones what is committed, got changes (M README.md); commit them" in repository.run(
        "python", "-m", "sweep", code=1
    )
    path.write_text(text + "\n")
    (repository.path / "sweep.yaml").write_text("prune.ratoi: [1]\nprune.ratio: [7]\n")
    lines = repository.run("python", "-m", "sweep", code=1).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["sweep", "sweep"]
    repository.run("git", "checkout", "--", ".")
