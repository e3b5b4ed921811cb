"""Why a goal was missed: a sentence for each kind of goal, made from the results."""

from stages.lib.report.results import Results, Variant
from stages.lib.report.sentences import error_after, error_before
from stages.lib.report.tables import small_budget
from stages.lib.report.wording import error_change, megabytes, percent, plural, significant


def base_error_cause(results: Results) -> str:
    """Why `base` errs on too many images."""
    return _budget(results) or (
        f"`base` was trained for {plural(results.params.train.epochs, 'epoch')} and errs on "
        f"{results.val_error_pct('base'):.2f} % of the validation images; no cause is known."
    )


def pruning_cause(results: Results, variant: Variant) -> str:
    """Why a pruned model errs on too many images: where fine-tuning began and ended, beside `base`."""
    curve = results.curves[variant.model]
    start = f"from {error_before(results, variant.model)} " if curve[0].epoch == 0 else ""
    told = (
        f"Fine-tuning for {plural(curve[-1].epoch, 'epoch')} brought the error on the validation images {start}to "
        f"{error_after(results, variant.model)}, where `base` has {results.val_error_pct('base'):.2f} %."
    )
    return _joined(told, _budget(results))


def int8_cause(results: Results, variant: Variant) -> str:
    """What the chosen calibration did to the error on the images that it was chosen on; more isn't known."""
    chosen = results.quantization[variant.model]
    of = f", the best of {len(chosen.candidates):,}," if len(chosen.candidates) > 1 else ""
    return (
        f"On the validation images int8 with its calibration{of} changed the error by "
        f"{chosen.val_error_pct - chosen.fp32_val_error_pct:+.2f} points. More about the cause is not known."
    )


def flagship_cause(results: Results, variant: Variant) -> str:
    """How the error of the quantized student adds up."""
    base, student = results.variant("base"), results.variant(variant.model)
    told = (
        f"`base` errs on {base.accuracy.top1_error_pct:.2f} %; making it smaller changed that by "
        f"{error_change(student, base):+.2f} points, int8 by {error_change(variant, student):+.2f} more."
    )
    return _joined(told, _budget(results))


def sparse_size_cause(results: Results, variant: Variant) -> str:
    """What a sparse model's file consists of."""
    cost = variant.cost
    if variant.model not in results.params.models.packed:
        return "Its file holds every zero; `models.packed` lacks it."
    return (
        f"{cost.num_nonzero_parameters:,} of {cost.num_parameters:,} parameters are not zero. They have "
        f"{megabytes(4 * cost.num_nonzero_parameters)} MB in float32; the file, with where they are, has "
        f"{megabytes(cost.file_bytes)} MB."
    )


def int8_size_cause(variant: Variant) -> str:
    """What an int8 file holds beside its weights."""
    cost = variant.cost
    if cost.file_bytes <= cost.num_parameters:
        return f"It has {cost.num_parameters:,} parameters in {megabytes(cost.file_bytes)} MB."
    return (
        f"At a byte each its {cost.num_parameters:,} parameters have {megabytes(cost.num_parameters)} MB; the other "
        f"{megabytes(cost.file_bytes - cost.num_parameters)} MB are scales, 32-bit biases and the graph."
    )


def speed_cause(results: Results, variant: Variant, parent: Variant) -> str:
    """The two latencies with their spread, and what the CPU lacks."""
    ours, theirs = (
        f"{significant(each.cost.latency_cpu_ms)} ms (5th to 95th percentile "
        f"{significant(each.cost.latency_cpu_p5_ms)} to {significant(each.cost.latency_cpu_p95_ms)})"
        for each in (variant, parent)
    )
    told = f"It takes {ours}, `{parent.name}` {theirs}, for {significant(parent.cost.macs / 1e6, 3)} million MACs."
    return _joined(told, _lacks_vnni(results))


def eager_cause(results: Results, variant: Variant) -> str:
    """Where the flagship's latency stands between that of `base` in PyTorch and in ONNX Runtime."""
    base, eager = results.variant("base"), results.profile.eager["base"]
    told = (
        f"`base` takes {significant(eager.latency_eager_ms)} ms an image in PyTorch and "
        f"{significant(base.cost.latency_cpu_ms)} ms in ONNX Runtime, `{variant.name}` "
        f"{significant(variant.cost.latency_cpu_ms)} ms for {percent(variant.cost.macs / base.cost.macs)} of the MACs."
    )
    return _joined(told, _lacks_vnni(results))


def _budget(results: Results) -> str:
    """That the base was trained briefly, where it was."""
    if not small_budget(results.params):
        return ""
    return (
        f"The budget was small: `base` was trained for {plural(results.params.train.epochs, 'epoch')} on "
        f"{results.training['base'].num_train_images:,} images and errs on "
        f"{results.variant('base').accuracy.top1_error_pct:.2f} %."
    )


def _lacks_vnni(results: Results) -> str:
    machine = results.profile.machine
    there = machine.avx512_vnni or machine.avx_vnni
    return "" if there or not machine.avx2 else "The CPU lacks VNNI instructions, from which int8 gains most."


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))
