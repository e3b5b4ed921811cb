"""The model that fits a budget, from the results of the last sweep."""

from stages.lib.profiling.machine import describe_cpu
from stages.lib.report.formatting import significant
from stages.lib.stage import printable
from sweep.report import Candidate, read_results


def choose_model(*, max_loss: float | None, max_latency_ms: float | None, max_mb: float | None) -> str:
    """Name the most accurate model that keeps every limit, with its noise and how to rebuild it.

    Args:
        max_loss: Added top-1 error against the base in fp32, in percentage points; None for any.
        max_latency_ms: Of one image, on the machine of the sweep; None for any.
        max_mb: File, in units of 10^6 bytes; None for any.

    Raises:
        ValueError: If there is no sweep yet.
    """
    results = read_results()
    limits = {"loss_pct": max_loss, "latency_ms": max_latency_ms, "file_mb": max_mb}
    fitting = [
        each
        for each in results.candidates
        if all(limit is None or getattr(each, key) <= limit for key, limit in limits.items())
    ]
    lines = []
    if fitting:
        best = min(fitting, key=lambda each: (each.top1_error_pct, each.latency_ms, each.file_mb))
        lines += [f"{best.label}: {_numbers(best)}", f"rebuild it: dvc exp apply {best.name}"]
        if best.change is not None:
            lines[-1] += f", or dvc exp run -S {' -S '.join([*results.shared, best.change])}"
        if max_loss is not None and best.loss_pct + best.loss_noise_pct > max_loss:
            lines.append(f"on other images it may lose more than {max_loss:g} points: it is within the noise")
        if max_latency_ms is not None and best.latency_p95_ms > max_latency_ms:
            lines.append(f"one call in twenty took longer than {significant(best.latency_p95_ms)} ms")
    else:
        lines.append(f"none of {len(results.candidates)} models fits; the best in each respect:")
        for key, limit in limits.items():
            if limit is not None:
                nearest = min(results.candidates, key=lambda each: (getattr(each, key), each.top1_error_pct))
                lines.append(f"  {nearest.label}: {_numbers(nearest)}")
    cpu, _ = describe_cpu()
    if not results.machine.startswith(f"{cpu}, "):
        lines.append(
            f"latencies are of {results.machine}, not of this machine; "
            "a sweep with the same --git and --storage measures again here"
        )
    return "\n".join(printable(line) for line in lines)


def _numbers(each: Candidate) -> str:
    return (
        f"top-1 error {each.top1_error_pct:.2f} % ± {each.noise_pct:.2f}, "
        f"{each.loss_pct:+.2f} ± {each.loss_noise_pct:.2f} points against base, "
        f"{significant(each.latency_ms)} ms ({significant(each.latency_p5_ms)} to {significant(each.latency_p95_ms)}), "
        f"{each.file_mb:.3g} MB"
    )
