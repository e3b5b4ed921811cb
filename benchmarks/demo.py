"""Print the table of a run: `python -m benchmarks.demo demo`."""

import argparse
from pathlib import Path

import numpy as np
from tabulate import tabulate

from stages.lib.artifacts import METRICS, profile_path, read_json
from stages.lib.stage import one_line_errors

HEADERS = ("variant", "top-1 error, %", "parameters", "MACs, M", "file, kB", "latency, ms", "faster")


def table(folder: Path) -> str:
    """A row for each variant of the repository in `folder`."""
    metrics, costs = read_json(folder / METRICS), read_json(folder / profile_path())["variants"]
    rounds_ms = {name: np.array(cost["latency_rounds_ms"]) for name, cost in costs.items()}
    rows = [
        (
            name,
            f"{each['top1_error_pct']:.1f}",
            f"{each['num_parameters']:,}",
            f"{each['macs'] / 1e6:.1f}",
            f"{each['file_bytes'] / 1e3:,.0f}",
            f"{costs[name]['latency_cpu_ms']:.2f}",
            f"{np.median(rounds_ms['base'] / rounds_ms[name]):.1f}×",
        )
        for name, each in metrics.items()
    ]
    return tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True, stralign="right")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with one_line_errors("demo"):
        print(f"\nDigits, from {folder / METRICS} and {folder / profile_path()}:\n\n{table(folder)}")
