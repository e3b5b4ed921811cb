"""What a sweep found: every candidate measured in turns on one idle machine, the Pareto front, a table and a figure."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jinja2
import yaml
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict

from stages.lib.artifacts import REPORTS, evaluation_path, model_path, read_json, replacing, write_json
from stages.lib.models import MODELS, PRECISIONS
from stages.lib.params import load_params
from stages.lib.profiling.engines import OnnxEngine
from stages.lib.profiling.machine import count_threads, describe_cpu
from stages.lib.profiling.measuring import measure
from stages.lib.report.figures import COLORS, svg
from stages.lib.report.files import Accuracy
from stages.lib.report.formatting import megabytes, significant
from stages.lib.report.render import escape
from stages.lib.report.results import read_file
from stages.lib.report.statistics import paired_difference, standard_error_pct
from sweep.plan import Trial
from sweep.trial import REMOTE, Storage, experiment_ref, run

RESULTS = REPORTS / "sweep.json"
COSTS = {"file_mb": "file, MB", "latency_ms": "latency of one image, ms", "macs_m": "MACs, millions"}


class Candidate(BaseModel):
    """A model of the sweep in int8, as it ships.

    Attributes:
        change: What makes it, as `dvc exp run -S` takes it; None for the base.
        noise_pct: Two standard errors of the top-1 error, in percentage points.
        loss_pct: Added top-1 error against the base in fp32, in percentage points.
        loss_noise_pct: Two standard errors of that paired difference.
        is_on_front: Whether no other is better in one of error, file and latency and as good in the others.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    change: str | None
    top1_error_pct: float
    noise_pct: float
    loss_pct: float
    loss_noise_pct: float
    file_mb: float
    latency_ms: float
    latency_p5_ms: float
    latency_p95_ms: float
    macs_m: float
    is_on_front: bool = False

    @property
    def label(self) -> str:
        """For a figure or a table."""
        return self.model if self.change is None else f"{self.model}, {self.change}"


class SweepResults(BaseModel):
    """`reports/sweep.json`."""

    model_config = ConfigDict(frozen=True)

    commit: str
    machine: str
    base_error_pct: float
    shared: tuple[str, ...] = ()
    candidates: list[Candidate]


def measure_and_report(trials: Sequence[Trial], storage: Storage) -> None:
    """Bring the files of all trials here, measure their latency in turns, write reports/sweep.{json,md,svg}."""
    params = load_params()
    threads = count_threads(params.profile.threads)
    with tempfile.TemporaryDirectory() as name:
        found = {trial: fetch(trial, storage, Path(name) / trial.name) for trial in trials}
        engines: dict[str, Callable[[], OnnxEngine]] = {
            trial.name: partial(OnnxEngine, files[trial.file], threads) for trial, files in found.items()
        }
        print(f"measuring {len(engines)} models with {threads} threads", flush=True)
        measured = measure(engines, rounds=params.profile.rounds, calls_per_round=params.profile.calls_per_round)
        base = accuracy(found[trials[0]], "base", "fp32")
        candidates = []
        for trial, files in found.items():
            ours, latency = accuracy(files, trial.model, "int8"), measured[trial.name]
            change = paired_difference(ours, base)
            candidates.append(
                Candidate(
                    name=trial.name,
                    model=trial.model,
                    change=trial.change,
                    top1_error_pct=round(ours.top1_error_pct, 2),
                    noise_pct=round(2 * standard_error_pct(ours), 2),
                    loss_pct=change.points,
                    loss_noise_pct=change.noise,
                    file_mb=files[trial.file].stat().st_size / 1e6,
                    latency_ms=latency.percentile_ms(50),
                    latency_p5_ms=latency.percentile_ms(5),
                    latency_p95_ms=latency.percentile_ms(95),
                    macs_m=macs(files[str(model_path(trial.model))], params.data.image_size) / 1e6,
                )
            )
    front = pareto_front(candidates)
    marked = [each.model_copy(update={"is_on_front": each in front}) for each in candidates]
    cpu, _ = describe_cpu()
    results = SweepResults(
        commit=storage.commit,
        machine=f"{cpu}, {threads} threads",
        base_error_pct=round(base.top1_error_pct, 2),
        shared=trials[0].shared,
        candidates=marked,
    )
    write_json(RESULTS, results.model_dump())
    outputs = {REPORTS / "sweep.md": render(results), REPORTS / "sweep.svg": draw(results)}
    for path, text in outputs.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(f"see {REPORTS / 'sweep.md'}")


def fetch(trial: Trial, storage: Storage, folder: Path) -> dict[str, Path]:
    """The files of a trial that the report needs, by their names in the repository."""
    reference = experiment_ref(storage, trial.name)
    run(["dvc", "exp", "pull", "--quiet", "--force", "--remote", REMOTE, storage.git, reference])
    locked = yaml.safe_load(run(["git", "show", f"{reference}:dvc.lock"]))
    digests = {out["path"]: out["md5"] for stage in locked["stages"].values() for out in stage.get("outs", [])}
    evaluations = [str(evaluation_path(trial.model, precision)) for precision in PRECISIONS]
    cache = Path(run(["dvc", "cache", "dir"]).strip()) / "files" / "md5"
    found = {}
    for path in [*evaluations, str(model_path(trial.model)), trial.file]:
        source, target = cache / digests[path][:2] / digests[path][2:], folder / path
        if not source.is_file():
            remote = "" if storage.git == str(Path.cwd()) else f"--git-remote {storage.git} "
            raise ValueError(
                f"{path} of {trial.name} must be in the storage, found none; `dvc exp remove {remote}{trial.name}`, "
                "and sweep again"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
        found[path] = target
    return found


def accuracy(files: dict[str, Path], model: str, precision: str) -> Accuracy:
    """What stage evaluate found."""
    return read_file(files[str(evaluation_path(model, precision))], Accuracy)


def macs(path: Path, image_size: int) -> int:
    """Multiply-accumulates for one image."""
    import torch

    from stages.lib.costs import count_macs
    from stages.lib.network.checkpoint import load_model

    return count_macs(load_model(path), torch.zeros(1, 3, image_size, image_size))


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one beats: better in error, file or latency, and in none of them worse."""

    def costs(each: Candidate) -> tuple[float, float, float]:
        return each.top1_error_pct, each.file_mb, each.latency_ms

    return [
        each
        for each in candidates
        if not any(
            costs(other) != costs(each) and all(a <= b for a, b in zip(costs(other), costs(each), strict=True))
            for other in candidates
        )
    ]


def read_results() -> SweepResults:
    """The last sweep.

    Raises:
        ValueError: If there is none, or the file is damaged.
    """
    if not RESULTS.is_file():
        raise ValueError(f"{RESULTS} must hold a sweep, found none; run python -m sweep first")
    try:
        return SweepResults.model_validate(read_json(RESULTS))
    except ValueError as error:
        raise ValueError(f"{RESULTS} must hold a sweep ({error}); run python -m sweep again") from None


def render(results: SweepResults) -> str:
    """The report in Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # all text is ours but the machine
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"significant": significant, "megabytes": megabytes}
    return environment.get_template("sweep.md.j2").render(results=results, machine=escape(results.machine))


def draw(results: SweepResults) -> str:
    """Top-1 error against each cost, a line for each method, as SVG."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for axes, (key, label) in zip(panels, COSTS.items(), strict=True):
        for model in MODELS:
            rows = sorted((row for row in results.candidates if row.model == model), key=lambda row: getattr(row, key))
            if not rows:
                continue
            x, y = [getattr(row, key) for row in rows], [row.top1_error_pct for row in rows]
            noise = [row.noise_pct for row in rows]
            axes.errorbar(x, y, yerr=noise, color=COLORS[model], marker="s", linewidth=1, elinewidth=0.6, label=model)
            for row in rows:
                if row.is_on_front:
                    axes.plot(getattr(row, key), row.top1_error_pct, "o", color="none", markeredgecolor="black", ms=11)
        axes.set(xlabel=label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("top-1 error on the test images, %")
    panels[0].legend(fontsize="small")
    return svg(figure)
