"""The plan of a sweep, and the choice from its results."""

import json
from pathlib import Path

import pytest

from stages.lib.params import render_params
from stages.lib.schema import Params
from sweep.choose import choose_model
from sweep.plan import PARAMETERS, read_plan
from sweep.report import RESULTS, Candidate, SweepResults, draw, pareto_front, render

PARAMS = render_params(Params())
ROOT = Path(__file__).parents[2]


def test_each_value_is_one_trial_of_one_model_and_the_base_comes_first() -> None:
    trials = read_plan("prune.ratio: [0.1, 0.3]\nprune.sparsity: [0.9]\nsqueeze.weight_bits: [4]", PARAMS)
    assert [(trial.model, trial.change) for trial in trials] == [
        ("base", None),
        ("structured", "prune.ratio=0.1"),
        ("structured", "prune.ratio=0.3"),
        ("unstructured", "prune.sparsity=0.9"),
        ("sparse-lowbit", "squeeze.weight_bits=4"),
    ]
    assert len({trial.name for trial in trials}) == 5
    assert trials[1].targets == ["evaluate@structured-fp32", "evaluate@structured-int8"]
    assert trials[3].targets[-1] == "pack@unstructured"
    assert trials[4].file == "artifacts/packed/sparse-lowbit-int8.onnx.packed"


def test_a_single_value_is_set_in_all_trials() -> None:
    trials = read_plan("prune.ratio: [0.3]\nfinetune.epochs: 2\nfinetune.augmentation.cutmix: 0.5", PARAMS)
    shared = ["finetune.epochs=2", "finetune.augmentation.cutmix=0.5"]
    assert [trial.changes for trial in trials] == [shared, [*shared, "prune.ratio=0.3"]]
    assert trials[1].name != read_plan("prune.ratio: [0.3]", PARAMS)[1].name


def test_a_name_tells_the_parameters_and_nothing_else() -> None:
    plan = "prune.ratio: [0.3]"
    name = read_plan(plan, PARAMS)[1].name
    without_comments = "\n".join(line.split("  #")[0] for line in PARAMS.splitlines())
    assert read_plan(plan, without_comments)[1].name == name
    assert read_plan(plan, PARAMS.replace("epochs: 5.0", "epochs: 6.0"))[1].name != name


def test_the_plan_that_is_shipped_is_valid() -> None:
    trials = read_plan((ROOT / "sweep.yaml").read_text(), (ROOT / "params.yaml").read_text())
    assert len(trials) >= 11


@pytest.mark.parametrize(
    ("plan", "problems"),
    [
        ("prune.ratoi: [0.1]", ["'prune.ratoi' can't be swept; these can: prune.ratio"]),
        ("prune.ratio: 0.1", ["prune.ratio must have a list of values, got 0.1"]),
        ("prune.ratio: []", ["prune.ratio must have a list of values, got []"]),
        (
            "prune.ratio: [1.5, -1]",
            ["prune.ratio: input should be less than 1", "prune.ratio: input should be greater"],
        ),
        ("- a", ["must have lines such as `prune.ratio: [0.1, 0.2]`, got list"]),
        ("", ["must have lines such as"]),
        ("train.lr: 1", ["'train.lr' can't be set in all trials; a single value under prune, finetune"]),
        ("finetune.image_sizes: {32: 1}", ["'finetune.image_sizes' can't be set in all trials"]),
        ("finetune.lr.x: 1", ["finetune.lr.x is not a parameter"]),
        ("finetune.epoch: 1", ["finetune.epoch is not a parameter; did you mean epochs?"]),
        ("a: [", ["not valid YAML"]),
        ("prune.ratio: [0.1]\nprune.ratio: [0.2]", ["not valid YAML"]),
        (
            "lowrank.macs_ratio: [x]\ntrain.lr: [1]",
            ["lowrank.macs_ratio: input should be a valid number", "'train.lr'"],
        ),
    ],
)
def test_every_mistake_in_a_plan_is_one_line(plan: str, problems: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        read_plan(plan, PARAMS)
    lines = str(error.value).splitlines()
    assert len(lines) == len(problems)
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(problem)


def candidate(model: str, change: str | None, error: float, mb: float, ms: float, noise: float = 0.3) -> Candidate:
    return Candidate(
        name=f"sweep-{model}-{change}", model=model, change=change, top1_error_pct=error, noise_pct=0.8,
        loss_pct=round(error - 22, 2), loss_noise_pct=noise, file_mb=mb, latency_ms=ms, latency_p5_ms=0.9 * ms,
        latency_p95_ms=1.3 * ms, macs_m=100,
    )  # fmt: skip


CANDIDATES = [
    candidate("base", None, 22.1, 6.5, 0.9),
    candidate("structured", "prune.ratio=0.2", 22.6, 4.2, 0.6),
    candidate("structured", "prune.ratio=0.5", 25.0, 1.9, 0.4),
    candidate("unstructured", "prune.sparsity=0.8", 22.8, 1.7, 0.9),
    candidate("lowrank", "lowrank.macs_ratio=0.7", 23.0, 4.5, 0.7),
]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepResults:
    monkeypatch.chdir(tmp_path)
    results = SweepResults(commit="a" * 40, machine="Some CPU, 2 threads", base_error_pct=22, candidates=CANDIDATES)
    RESULTS.parent.mkdir()
    RESULTS.write_text(results.model_dump_json())
    return results


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        ((None, None, None), "base: top-1 error 22.10 %"),
        ((1.0, 0.7, None), "structured, prune.ratio=0.2: top-1 error 22.60 %"),
        ((1.0, None, 2.0), "unstructured, prune.sparsity=0.8: top-1 error 22.80 %"),
        ((None, 0.5, 2.0), "structured, prune.ratio=0.5: top-1 error 25.00 %"),
        ((0.5, 0.5, 1.0), "none of 5 models fits"),
    ],
)
def test_the_choice_keeps_every_limit(limits: tuple[float | None, float | None, float | None], chosen: str) -> None:
    loss, latency, mb = limits
    text = choose_model(max_loss=loss, max_latency_ms=latency, max_mb=mb)
    assert text.startswith(chosen)
    assert "latencies are of Some CPU, 2 threads, not of this machine" in text
    if not chosen.startswith("none"):
        assert "rebuild it: dvc exp apply sweep-" in text


@pytest.mark.usefixtures("results")
def test_the_choice_says_what_is_within_the_noise() -> None:
    text = choose_model(max_loss=0.7, max_latency_ms=0.7, max_mb=None)
    assert "may lose more than 0.7 points" in text and "one call in twenty took longer than 0.78 ms" in text


def test_without_a_sweep_there_is_no_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"sweep\.json must hold a sweep, found none; run python -m sweep first"):
        choose_model(max_loss=1, max_latency_ms=None, max_mb=None)
    RESULTS.parent.mkdir()
    RESULTS.write_text(json.dumps({"commit": 1}))
    with pytest.raises(ValueError, match="run python -m sweep again"):
        choose_model(max_loss=1, max_latency_ms=None, max_mb=None)


def test_the_front_has_whatever_no_other_beats() -> None:
    assert [each.label for each in pareto_front(CANDIDATES)] == [
        "base",
        "structured, prune.ratio=0.2",
        "structured, prune.ratio=0.5",
        "unstructured, prune.sparsity=0.8",
    ]


def test_the_report_has_a_row_for_each_candidate(results: SweepResults) -> None:
    text = render(results)
    assert text.count("\n| `") == len(CANDIDATES)
    assert "| `structured` | `prune.ratio=0.5` | 25.00 ± 0.80 | +3.00 ± 0.30 | 1.90 | 0.40 (0.36–0.52) | 100 |" in text
    assert draw(results).rstrip().endswith("</svg>")


def test_every_swept_parameter_belongs_to_a_model_that_it_changes() -> None:
    sections = {"structured": "prune", "unstructured": "prune", "lowrank": "lowrank", "distilled": "distill"}
    for parameter, model in PARAMETERS.items():
        assert parameter.split(".")[0] == sections.get(model, "squeeze")
