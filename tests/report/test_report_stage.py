"""The stage: what it writes, and what it leaves where something is wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_run import Run

from stages import report
from stages.lib.artifacts import METRICS, curve_path, profile_path
from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.stage import one_line_errors

ROOT = Path(__file__).parents[2]
REPORT = Path("reports/report.md")


@pytest.mark.usefixtures("run")
def test_the_stage_writes_metrics_report_and_figures() -> None:
    report.main()
    figures = re.findall(r"!\[.+\]\((.+)\)", REPORT.read_text(encoding="utf-8"))
    assert sorted(figures) == ["figures/channels.svg", "figures/curves.svg", "figures/tradeoffs.svg"]
    for figure in figures:
        assert "<svg" in Path("reports", figure).read_text(encoding="utf-8")


@pytest.mark.usefixtures("run")
def test_every_variant_has_the_same_metrics_in_two_significant_digits() -> None:
    report.main()
    values = json.loads(METRICS.read_text(encoding="utf-8"))
    assert list(values) == [variant_name(model, precision) for model in MODELS for precision in PRECISIONS]
    assert {tuple(of_variant) for of_variant in values.values()} == {tuple(values["base"])}
    assert values["base"] == {
        "top1_error_pct": 22.91,
        "top5_error_pct": 6.12,
        "num_parameters": 6_402_564,
        "num_nonzero_parameters": 6_402_564,
        "macs": 531_000_000,
        "file_bytes": 25_690_256,
        "latency_cpu_ms": 6.6,
        "memory_mb": 62.0,
    }


@pytest.mark.parametrize(("path", "is_missing"), [(profile_path(), True), (curve_path("lowrank"), False)])
def test_a_bad_input_is_one_line_and_leaves_the_old_report(run: Run, path: Path, is_missing: bool) -> None:
    report.main()
    old = {output: output.read_bytes() for output in (METRICS, REPORT)}
    run.set_error("base", 50.0)
    path.unlink()
    if not is_missing:
        path.touch()
    with pytest.raises(SystemExit) as ended, one_line_errors("report"):
        report.main()
    message = str(ended.value)
    assert message.startswith("report: ")
    assert str(path) in message
    assert "\n" not in message
    assert {output: output.read_bytes() for output in old} == old


@pytest.mark.usefixtures("run")
def test_the_stage_imports_no_torch() -> None:
    code = "import sys; from stages import report; report.main(); sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
