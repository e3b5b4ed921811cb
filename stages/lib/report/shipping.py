"""What zeros and packing mean for a file, in sentences made from the numbers."""

from stages.lib.params import variant_name
from stages.lib.report.results import Results, Variant
from stages.lib.report.wording import is_faster, is_smaller, megabytes, times


def shipping(results: Results, variant: Variant) -> str:
    """What the zeros save on disk."""
    cost = variant.cost
    has_zeros = variant.model == "unstructured" and results.params.prune.sparsity > 0
    if variant.model in results.params.models.packed:
        verdict = (
            f"{times(cost.onnx_bytes / cost.file_bytes):.2f} times as many"
            if cost.onnx_bytes > cost.file_bytes
            else "no more"
        )
        zeros = f"{_zeros(results, variant)} " if has_zeros else ""
        return (
            f"{zeros}It ships as a packed file, nonzero values and a mask of where they are, compressed, from "
            f"which the ONNX file comes back bit for bit: that has {megabytes(cost.onnx_bytes)} MB, {verdict}."
            f"{_dense_packed(results, variant)}"
        )
    if has_zeros and not is_smaller(variant, results.variant("base")):
        return f"{_zeros(results, variant)} It ships as a plain ONNX file, which stores the zeros densely."
    return ""


def _zeros(results: Results, variant: Variant) -> str:
    """What zeros without a pattern mean for the latency."""
    dense = results.variant(variant_name("base", variant.precision))
    if is_faster(variant, dense):
        verdict = f"that it was faster than `{dense.name}` in this profile is chance."
    else:
        verdict = "sparsity without a pattern saves bytes at most, not time."
    return f"ONNX Runtime multiplies by the zeros all the same: {verdict}"


def _dense_packed(results: Results, variant: Variant) -> str:
    """What `base` would have if it were packed too, which tells the share of the zeros from that of the compression."""
    if variant.model != "unstructured":
        return ""
    dense = results.quantization["base"].packed_bytes[variant.precision]
    return (
        f" `{variant_name('base', variant.precision)}`, packed in the same way, would have {megabytes(dense)} MB, "
        f"{times(dense / variant.cost.file_bytes):.2f} times as many: that much is due to the zeros."
    )
