"""Numbers to text."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `make bench-here` does without what these need
    from stages.lib.report.files import AdoptedCost
    from stages.lib.report.statistics import Difference, Spread

DASH = "\N{EN DASH}"


def times(value: float) -> float:
    """A ratio as it is shown: two decimals, rounded down, so that it never looks like a goal that it misses."""
    return math.floor(100 * value + 1e-9) / 100


def significant(value: float, digits: int = 2) -> str:
    """`value` with this many significant digits, trailing zeros kept, thousands separated."""
    rounded = float(f"{value:.{digits}g}")
    magnitude = math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{rounded:,.{max(0, digits - 1 - magnitude)}f}"


def fixed(value: float, digits: int = 2) -> str:
    """`value` with this many decimals."""
    return f"{value:,.{digits}f}"


def count(value: float) -> str:
    """A count with its thousands separated; 0.4 epochs stay 0.4."""
    return f"{value:,.15g}"


def plural(value: float, noun: str) -> str:
    """A count of something: `1 thread`, `2 threads`."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def number(value: float) -> str:
    """A round number, as on an axis."""
    return f"{value:g}"


def signed(difference: "Difference") -> str:
    """A difference with its noise: `+0.26 ± 0.35`."""
    return f"{difference.points:+.2f} ± {difference.noise:.2f}"


def p_value(value: float) -> str:
    """A probability with the digits that mean something."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def megabytes(num_bytes: float) -> str:
    """A size in units of 10^6 bytes, without the unit."""
    return significant(num_bytes / 1e6, 3)


def percent(share: float) -> str:
    """A share in percent; what is less than all is never rounded up to it."""
    digits = 3
    while share < 1 and float(f"{100 * share:.{digits}g}") == 100:
        digits += 1
    return f"{100 * share:.{digits}g} %"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{significant(seconds / length)} {unit}"
    return f"{significant(seconds)} s"


def milliseconds(cost: "AdoptedCost") -> str:
    """A latency with its 5th and 95th percentile: `2.5 (2.4-2.7)`."""
    low, median, high = map(significant, (cost.latency_cpu_p5_ms, cost.latency_cpu_ms, cost.latency_cpu_p95_ms))
    return f"{median} ({low}{DASH}{high})"


def ratio(spread: "Spread") -> str:
    """A ratio with its spread: `2.85x (2.79-2.94)`, without the spread where it is zero."""
    low, median, high = (f"{times(value):.2f}" for value in (spread.low, spread.median, spread.high))
    return f"{median}×" if low == high else f"{median}× ({low}{DASH}{high})"
