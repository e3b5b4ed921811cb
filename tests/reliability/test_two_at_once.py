"""Two that want the same thing at once: neither spoils the other's work."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.reliability.commands import lasting
from tests.repository import Repository, wait_until

pytestmark = pytest.mark.slow


def start(repository: Repository, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=repository.path,
        env=repository.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_of_two_runs_in_one_work_tree_one_makes_way_in_a_line(finished: Repository, tmp_path: Path) -> None:
    repository = finished.duplicate(tmp_path)
    whole = lasting(repository.path)
    both = [start(repository, "dvc", "repro", "--force", "--single-item", "quantize@base") for _ in range(2)]
    said = [each.communicate()[0] for each in both]
    assert sorted(each.returncode for each in both) == [0, 255], said
    loser = said[both[1].returncode != 0]
    assert "lock" in loser and "Traceback" not in loser
    assert lasting(repository.path) == whole


def test_queued_experiments_run_side_by_side(finished: Repository, tmp_path: Path) -> None:
    repository = finished.duplicate(tmp_path)
    for ratio in (0.3, 0.4):
        name = f"ratio-{ratio}".replace(".", "-")
        repository.run("dvc", "exp", "run", "--queue", "--name", name, "--set-param", f"prune.ratio={ratio}")
    repository.run("dvc", "queue", "start", "--jobs", "2")
    wait_until(
        lambda: not {"Queued", "Running"} & set(repository.run("dvc", "queue", "status").split()), seconds=600, every=5
    )
    refs = repository.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    counts = {
        ref.rsplit("/", 1)[1]: json.loads(repository.run("git", "show", f"{ref}:metrics.json"))["structured"][
            "num_parameters"
        ]
        for ref in refs
        if "/ratio-" in ref
    }
    assert set(counts) == {"ratio-0-3", "ratio-0-4"}
    assert counts["ratio-0-4"] < counts["ratio-0-3"]
