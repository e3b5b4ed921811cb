"""The report's first paragraph: where the base model stands, and which variants are best at what."""

from collections.abc import Sequence

from stages.lib.report.results import Results, Variant
from stages.lib.report.sentences import against
from stages.lib.report.tables import data_name
from stages.lib.report.wording import (
    SAME_LATENCY,
    SAME_SIZE,
    is_faster,
    is_smaller,
    listed,
    megabytes,
    percent,
    plural,
    significant,
    speed_up,
    within_noise,
)


def summary(results: Results) -> str:
    """Where the base model stands, and which variants are worth a look."""
    base = results.variant("base")
    accurate = [
        variant
        for variant in results.variants
        if variant.accuracy.top1_error_pct <= base.accuracy.top1_error_pct
        or within_noise(variant.accuracy, base.accuracy)
    ]
    lossless = " without a loss of accuracy beyond noise"
    winners = {
        "smallest": _smallest(results.variants),
        "fastest": _fastest(results.variants),
        "most accurate": _most_accurate(results.variants),
        f"smallest{lossless}": _smallest(accurate),
        f"fastest{lossless}": _fastest(accurate),
    }
    lines = [
        f"The base model, a GoogLeNet trained on {data_name(results.params.data)}, errs on "
        f"{base.accuracy.top1_error_pct:.2f} % of {base.accuracy.num_images:,} test images, has a file of "
        f"{megabytes(base.cost.file_bytes)} MB and takes {significant(base.cost.latency_cpu_ms)} ms an image on the "
        f"CPU. Of the {plural(len(results.variants), 'variant')} compared, where less than {percent(SAME_LATENCY)} in "
        f"latency and {percent(SAME_SIZE)} in size count as no difference:",
        "",
    ]
    for name in dict.fromkeys(winner.name for winner in winners.values()):
        variant = results.variant(name)
        roles = [role for role, winner in winners.items() if winner is variant]
        roles = [role for role in roles if role not in [f"{plain}{lossless}" for plain in roles]]
        title = listed(roles).replace(f"{lossless} and", " and").capitalize()
        found = "No compression does better." if variant is base else against(variant, base, subject="It")
        lines.append(f"- **{title}: `{name}`.** {found}")
    return "\n".join(lines)


def _smallest(variants: Sequence[Variant]) -> Variant:
    """The variant of the smallest file; of several as small, the most accurate."""
    smallest = min(variants, key=lambda variant: variant.cost.file_bytes)
    return _most_accurate([variant for variant in variants if not is_smaller(smallest, variant)])


def _fastest(variants: Sequence[Variant]) -> Variant:
    """The fastest variant; of several as fast, the most accurate."""
    fastest = max(variants, key=lambda variant: speed_up(variant, variants[0]))
    return _most_accurate([variant for variant in variants if not is_faster(fastest, variant)])


def _most_accurate(variants: Sequence[Variant]) -> Variant:
    return min(variants, key=lambda variant: variant.accuracy.top1_error_pct)
