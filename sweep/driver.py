"""The part of a sweep that runs once: the shared prefix, the queue of trials, and the measurements at the end."""

import logging
import math
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import joblib
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tqdm import tqdm

from stages.lib.params import PARAMS_FILE, load_params
from sweep.plan import Trial, read_plan
from sweep.report import measure_and_report
from sweep.trial import REMOTE, Storage, is_done, run, run_trial

CHANGES = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports/sweep.*"]
RETRIES = 5  # of a trial whose node or process was lost
ROUNDING = 1e-9  # of shares of a GPU
POLL = 5  # seconds after which nodes are looked at again
SUBREAPER = "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper"  # else only direct children end


def sweep(
    plan: Path,
    *,
    address: str | None,
    cpus: int,
    gpus: float,
    git: str | None,
    storage: str | None,
    resume: str | None,
) -> int:
    """Run the trials that are not done yet, measure all of them on this machine, write reports/sweep.md.

    Returns:
        The number of trials that failed.

    Raises:
        ValueError: If the plan or the state of the repository doesn't allow a sweep.
    """
    if cpus < 1 or gpus < 0:
        raise ValueError(f"a trial needs at least one CPU, got --cpus-per-trial {cpus} --gpus-per-trial {gpus:g}")
    if not plan.is_file():
        raise ValueError(f"--plan must be a file, found no {plan}; copy sweep.yaml and change it")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where dvc is
    if images := _absolute(os.environ.get("CIFAR100_DIR")):
        os.environ["CIFAR100_DIR"] = images
    load_params()  # whose mistakes are not the plan's
    try:
        trials = read_plan(plan.read_text(encoding="utf-8"), PARAMS_FILE.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExceptionGroup(str(plan), [ValueError(f"{plan}: {line}") for line in str(error).splitlines()]) from None
    place = _prepare(git, storage, resume)
    waiting = [trial for trial in trials if not is_done(place, trial.name)]
    print(f"{len(trials)} trials, {len(trials) - len(waiting)} of them already done", flush=True)
    failed = _run_all(waiting, place, address=address, cpus=cpus, gpus=gpus) if waiting else {}
    for name, reason in failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    if trials[0].name not in failed:
        measure_and_report([trial for trial in trials if trial.name not in failed], place)
    return len(failed)


def _prepare(git: str | None, storage: str | None, resume: str | None) -> Storage:
    """Make the base, check that it is committed, and push it where all nodes find it."""
    root = Path.cwd()
    git, storage, resume = _absolute(git), _absolute(storage), _absolute(resume)
    if changed := run(CHANGES).strip():
        raise ValueError(f"a sweep clones what is committed, got changes ({changed.splitlines()[0]}); commit them")
    run(["dvc", "pull", "--quiet", "--allow-missing", "train"])
    if subprocess.run(["dvc", "repro", "--allow-missing", "train"], check=False).returncode:  # may train for hours
        raise ValueError("a sweep needs a trained base, which could not be made (see above)")
    if run(CHANGES).strip():
        raise ValueError("the base was out of date and has been trained; commit dvc.lock and reports/, then sweep")
    dvc = storage or str(root / ".dvc" / "tmp" / "sweep" / "remote")
    run(["dvc", "remote", "add", "--quiet", "--local", "--force", REMOTE, dvc])
    run(["dvc", "push", "--quiet", "--remote", REMOTE, "train"])
    commit = run(["git", "rev-parse", "HEAD"]).strip()
    if resume is None and storage is None:
        resume = str(root / ".dvc" / "tmp" / "sweep" / "resume")
    return Storage(git or str(root), commit, dvc, resume)


def _absolute(place: str | None) -> str | None:
    """A path that holds in the folder of a trial, too; an address with a colon stays as it is."""
    return str(Path(place).absolute()) if place and ":" not in place else place


def _run_all(
    trials: Sequence[Trial], storage: Storage, *, address: str | None, cpus: int, gpus: float
) -> dict[str, str]:
    """Run trials as Ray tasks; returns why those that failed did, by name.

    Each trial is sent to a node that has room. Left to Ray, one on its way to a node that dies can wait forever
    (https://github.com/ray-project/ray/issues/63405).

    Raises:
        ValueError: If no node has room for a trial.
    """
    os.environ[SUBREAPER] = "1"  # for the node that ray.init may start
    packages = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "stages")]
    ray.init(
        address=address or "local",
        num_cpus=None if address else max(joblib.cpu_count(), cpus),
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"py_modules": packages} if address else None,
    )
    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(run_trial)  # type: ignore[arg-type]
    waiting, running, lost = deque(trials), dict[Any, tuple[Trial, str]](), Counter[str]()
    failed: dict[str, str] = {}
    started = time.monotonic()
    try:
        with tqdm(total=len(trials), disable=None, leave=False, unit="trial") as bar:
            while waiting or running:
                room = _room(cpus, gpus)
                for node, places in room.items():
                    there = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
                    free = places - sum(where == node for _, where in running.values())
                    for _ in range(min(free, len(waiting))):
                        trial = waiting.popleft()
                        running[there.remote(trial, storage, threads=cpus)] = trial, node
                if not running:
                    raise ValueError(
                        f"no node has {cpus} CPUs and {gpus:g} GPUs for a trial; ask for fewer, or add nodes"
                    )
                ready, _ = ray.wait(list(running), timeout=POLL)
                for ref in [ref for ref, (_, node) in running.items() if ref in ready or node not in room]:
                    trial, _ = running.pop(ref)
                    try:
                        outcome = f"done on {ray.get(ref, timeout=0)}"
                    except ray.exceptions.RayTaskError as error:
                        outcome = failed[trial.name] = " ".join(str(error.cause).split())
                    except ray.exceptions.RayError as error:
                        outcome = f"lost ({type(error).__name__})"
                        lost[trial.name] += 1
                        if lost[trial.name] <= RETRIES:
                            waiting.append(trial)
                        else:
                            failed[trial.name] = outcome
                    bar.n = done = len(trials) - len(waiting) - len(running)
                    bar.refresh()
                    left = timedelta(seconds=round((time.monotonic() - started) / max(done, 1) * (len(trials) - done)))
                    tqdm.write(f"{trial.name}  {trial.model}  {trial.change or 'base'}  {outcome}  left {left}")
                    sys.stdout.flush()
    finally:
        ray.shutdown()
    return failed


def _room(cpus: int, gpus: float) -> dict[str, int]:
    """How many trials fit on each living node, by its ID."""
    nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return {
        node: int(min(has.get("CPU", 0) // cpus, has.get("GPU", 0) / gpus + ROUNDING if gpus else math.inf))
        for node, has in nodes.items()
    }
