"""The stage as DVC runs it, once, and the figures that it draws."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stages.lib.artifacts import profile_path, training_path
from stages.lib.models import MODELS
from stages.lib.params import load_params
from stages.lib.report.figures import draw_curves, draw_tradeoffs, shows_channels
from stages.lib.report.results import read_results
from stages.lib.report.tables import metrics, variant_rows
from tests.report.run import HEADER, ROOT, Run

# As `python -m stages.report`; exits with the modules of torch that were imported.
STAGE = """
import runpy, sys
runpy.run_module("stages.report", run_name="__main__")
sys.exit([name for name in sys.modules if name.partition(".")[0] == "torch"] or 0)
"""
OUTSIDE = 'Mark<"&>er'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose report was made in a process of its own, with warnings as errors."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = Run()
        run.change(profile_path(), "machine", cpu=OUTSIDE, os=OUTSIDE)
        run.add_gpu(gpu=OUTSIDE)
        run.change(training_path("base"), device=OUTSIDE)
        patch.setenv("PYTHONPATH", str(ROOT))
        done = subprocess.run([sys.executable, "-W", "error", "-c", STAGE], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_the_stage_writes_its_outputs_without_torch_or_a_word(here: Path) -> None:
    written = {str(path.relative_to(here)) for path in here.rglob("*") if path.suffix in (".html", ".svg", ".md")}
    assert written == {
        "reports/report.md",
        "reports/report.html",
        *(f"reports/cards/{name}{suffix}.md" for name in MODELS for suffix in ("", "-int8")),
        *(f"reports/figures/{name}.svg" for name in ("channels", "curves", "tradeoffs")),
    }
    rows = variant_rows(read_results(load_params()))
    assert json.loads((here / "metrics.json").read_text(encoding="utf-8")) == metrics(rows)


def test_every_figure_in_the_report_is_there_and_every_one_there_is_in_it(here: Path) -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (here / "reports/report.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(f"figures/{path.name}" for path in (here / "reports/figures").iterdir())


def test_figures_are_svg_without_text_from_outside(here: Path) -> None:
    for path in (here / "reports/figures").iterdir():
        text = path.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "Mark" not in text and "<script" not in text


def test_figures_are_the_same_for_the_same_numbers(here: Path) -> None:
    rows = variant_rows(read_results(load_params()))
    assert draw_tradeoffs(rows) == (here / "reports/figures/tradeoffs.svg").read_text(encoding="utf-8")


def test_a_training_shorter_than_an_epoch_is_drawn(run: Run) -> None:
    for model in MODELS:
        run.write_curve(model, HEADER, "0,,85.1,," if model == "base" else "0.4,2.5,85.1,,")
    assert draw_curves(run.results()).rstrip().endswith("</svg>")


def test_channels_are_drawn_only_where_some_are_gone(run: Run) -> None:
    shapes = run.results().compression
    assert [name for name in shapes if shows_channels({name: shapes[name]})] == ["structured", "lowrank"]
