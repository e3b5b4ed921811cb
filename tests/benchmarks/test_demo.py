"""The table at the end of `make demo`."""

from pathlib import Path

import pytest

from benchmarks.demo import table
from stages.lib.artifacts import METRICS, profile_path, write_json
from stages.lib.models import MODELS
from tests.repository import Repository


def rows(folder: Path) -> list[list[str]]:
    _, _, *lines = table(folder).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_a_row_for_each_variant_with_its_speed_relative_to_the_base(tmp_path: Path) -> None:
    costs = {"top1_error_pct": 5.25, "num_parameters": 12_345, "macs": 2_500_000, "file_bytes": 80_500}
    write_json(tmp_path / METRICS, {"base": costs, "base-int8": costs})
    latencies = {"base": 1.2, "base-int8": 0.5}
    profile = {name: {"latency_cpu_ms": ms, "latency_rounds_ms": [ms]} for name, ms in latencies.items()}
    write_json(tmp_path / profile_path(), {"variants": profile})
    base, int8 = rows(tmp_path)
    assert base == ["base", "5.2", "12,345", "2.5", "80", "1.20", "1.0×"]
    assert (int8[0], int8[-2:]) == ("base-int8", ["0.50", "2.4×"])


@pytest.mark.slow
def test_the_table_is_that_of_a_real_run(finished: Repository) -> None:
    assert len(rows(finished.path)) == 2 * len(MODELS)
