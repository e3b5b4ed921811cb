"""The table at the end of `make demo`."""

from benchmarks.demo import table


def test_the_table_has_a_row_for_each_variant_with_its_speed_relative_to_the_base() -> None:
    costs = {"top1_error_pct": 5.25, "num_parameters": 12_345, "macs": 2_500_000, "file_bytes": 80_500}
    metrics = {"base": costs | {"latency_cpu_ms": 1.2}, "base-int8": costs | {"latency_cpu_ms": 0.5}}
    *_, base, int8 = ([cell.strip() for cell in line.strip("|").split("|")] for line in table(metrics).splitlines())
    assert base == ["base", "5.2", "12,345", "2.5", "80", "1.20", "1.0×"]
    assert (int8[0], int8[-2:]) == ("base-int8", ["0.50", "2.4×"])
