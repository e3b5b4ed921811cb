"""Print the table of a run: `python -m benchmarks.demo demo/metrics.json`."""

import argparse
from pathlib import Path

from tabulate import tabulate

from stages.lib.artifacts import read_json
from stages.lib.stage import one_line_errors

HEADERS = ("variant", "top-1 error, %", "parameters", "MACs, M", "file, kB", "latency, ms", "faster")


def table(metrics: dict[str, dict[str, float]]) -> str:
    """A row for each variant of `metrics.json`."""
    base_ms = metrics["base"]["latency_cpu_ms"]
    rows = [
        (
            name,
            f"{each['top1_error_pct']:.1f}",
            f"{each['num_parameters']:,}",
            f"{each['macs'] / 1e6:.1f}",
            f"{each['file_bytes'] / 1e3:,.0f}",
            f"{each['latency_cpu_ms']:.2f}",
            f"{base_ms / each['latency_cpu_ms']:.1f}×",
        )
        for name, each in metrics.items()
    ]
    return tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True, stralign="right")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics", type=Path)
    path = parser.parse_args().metrics
    with one_line_errors("demo"):
        print(f"\nDigits, from {path}:\n\n{table(read_json(path))}")
