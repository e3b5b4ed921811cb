"""A paragraph for each variant: what it is, and what it costs and gains, in sentences made from the numbers."""

from stages.lib.report.references import rises_gradually
from stages.lib.report.results import Results, Variant
from stages.lib.report.shipping import shipping
from stages.lib.report.wording import (
    SAME_LATENCY,
    error_verdict,
    gains_nothing,
    is_faster,
    latency_verdict,
    percent,
    plural,
    significant,
    size_verdict,
    speed_up,
    standard_error_pct,
    times,
)

IMPORTANCES = {
    "magnitude": "those of smallest norm",
    "bn_scale": "those of smallest scale in batch normalization",
    "taylor": "those whose removal changes the loss least, as estimated from its gradients",
}
SCOPES = {
    "global": "those of the whole network of smallest magnitude",
    "layer": "those of each layer of smallest magnitude",
    "lamp": "those of smallest magnitude beside the larger ones of their layer (LAMP)",
}
TEACHING = {"kd": "knowledge distillation", "standardized_kd": "knowledge distillation with standardized logits"}


def paragraph(results: Results, variant: Variant) -> str:
    """What a variant is, and what it costs and gains against the model that it was made from."""
    sentences = {
        "base": _base,
        "structured": _structured,
        "unstructured": _unstructured,
        "lowrank": _lowrank,
        "distilled": _distilled,
    }
    describe = sentences[variant.model] if variant.precision == "fp32" else _int8
    return " ".join((f"**`{variant.name}`**", *filter(None, describe(results, variant))))


def against(variant: Variant, reference: Variant, *, subject: str) -> str:
    """Error, speed and size against another variant, and whether anything at all was gained."""
    sentences = [
        f"{subject} {error_verdict(variant, reference)}.",
        f"It {latency_verdict(variant, reference)}.",
        f"Its file {size_verdict(variant, reference)}.",
    ]
    if gains_nothing(variant, reference):
        sentences.append(
            f"So it loses to `{reference.name}`: neither smaller, nor faster, nor more accurate beyond noise."
        )
    return " ".join(sentences)


def _base(_: Results, base: Variant) -> list[str]:
    return [
        f"is what the others are compared with: {base.cost.num_parameters:,} parameters and "
        f"{significant(base.cost.macs / 1e6, 3)} million MACs for one image. Its top-1 error of "
        f"{base.accuracy.top1_error_pct:.2f} % on {base.accuracy.num_images:,} test images has a standard error of "
        f"{standard_error_pct(base.accuracy):.2f} points."
    ]


def _structured(results: Results, variant: Variant) -> list[str]:
    prune, base, shape = results.params.prune, results.variant("base"), results.compression["structured"]
    lost = [1 - width / before for width, before in zip(shape.widths, shape.base_widths, strict=True)]
    least, most = percent(min(lost)), percent(max(lost))  # only whole channels, or groups of them, can go
    total = percent(1 - sum(shape.widths) / sum(shape.base_widths))
    share = (
        f"{least if least == most else f'{least} to {most}'} of the channels of every convolution, {total} in all"
        if prune.scope == "uniform"
        else f"{total} of all channels, wherever they matter least, but at most {most} of a layer's"
    )
    multiples = ""
    if prune.round_to and prune.round_to > 1:
        few = "" if all(width % prune.round_to == 0 for width in shape.widths) else ", or all of fewer channels"
        multiples = f" (what is kept is the nearest multiple of {prune.round_to:,}{few})"
    how = "".join(
        (
            f", in {prune.steps:,} steps with {plural(prune.step_epochs, 'epoch')} of fine-tuning between them"
            if prune.steps > 1
            else "",
            f", after {plural(prune.sparsify_epochs, 'epoch')} of training that drew the scales of batch normalization "
            "towards zero"
            if prune.sparsify_epochs
            else "",
        )
    )
    sentences = [
        f"lacks {share}, {IMPORTANCES[prune.importance]}{multiples}{how}: {sum(shape.widths):,} of "
        f"{sum(shape.base_widths):,} channels, {_left(variant, base)}.",
        *_adaptation(results),
        _fate(results, variant.model),
        against(variant, base, subject="Against `base` it"),
        _by_macs(variant, base),
    ]
    machine = results.profile.machine
    filling = 16 if machine.avx512f else 8 if machine.avx2 else 4  # float32 values in a vector register
    uneven, uneven_before = (
        sum(width % filling > 0 for width in widths) / len(widths) for widths in (shape.widths, shape.base_widths)
    )
    if sentences[-1] and uneven > uneven_before:
        sentences.append(
            f"Part of the difference may come from its channel counts: {percent(uneven)} of its convolutions, against "
            f"{percent(uneven_before)} of those of `base`, have one that is no multiple of {filling}, and so leaves "
            f"vector registers of this CPU partly empty (`prune.round_to: {prune.round_to or 'null'}`). That was not "
            "tested."
        )
    return sentences


def _by_macs(variant: Variant, base: Variant) -> str:
    """How fast it could be, where it is slower than that."""
    fewer = base.cost.macs / variant.cost.macs
    if speed_up(variant, base) * (1 + SAME_LATENCY) >= fewer:
        return ""
    return f"By its MACs it could be {times(fewer):.2f} times as fast."


def _unstructured(results: Results, variant: Variant) -> list[str]:
    prune = results.params.prune
    schedule = (
        f"Fine-tuning raised the share of zeros from the {percent(prune.start_sparsity or 0)} that pruning set, fast "
        "at first and slower and slower (a cubic schedule)."
        if rises_gradually(results)
        else ""
    )
    return [
        f"has {percent(prune.sparsity)} of its weights set to zero, {SCOPES[prune.sparsity_scope]}: "
        f"{variant.cost.num_nonzero_parameters:,} of {variant.cost.num_parameters:,} parameters are not zero.",
        schedule,
        *_adaptation(results),
        _fate(results, variant.model),
        against(variant, results.variant("base"), subject="Against `base` it"),
        shipping(results, variant),
    ]


def _lowrank(results: Results, variant: Variant) -> list[str]:
    lowrank, base, ranks = results.params.lowrank, results.variant("base"), results.compression["lowrank"].ranks
    num_images = min(lowrank.images, results.training["base"].num_train_images)
    return [
        f"has {sum(map(bool, ranks)):,} of its {len(results.compression['lowrank'].widths) + 1:,} layers replaced by "
        f"two thinner ones each, with ranks that are to leave {percent(lowrank.macs_ratio)} of the MACs: "
        f"{_left(variant, base)}. The factorization is data-aware: it minimizes the error of a layer's output on "
        f"{plural(num_images, 'training image')}, not that of its weights. On the same images its statistics of batch "
        "normalization were estimated anew.",
        _fate(results, variant.model),
        against(variant, base, subject="Against `base` it"),
        _by_macs(variant, base),
    ]


def _distilled(results: Results, variant: Variant) -> list[str]:
    distill, base = results.params.distill, results.variant("base")
    fitted = " fitted by least squares to what each layer of `base` gives and" if distill.reconstruction_images else ""
    start = (
        "random weights"
        if distill.start == "scratch"
        else f"the channels of `base` of largest norm,{fitted} with statistics of batch normalization estimated anew,"
    )
    teaching = TEACHING.get(distill.distillation.loss)
    teacher = f"with `base` as its teacher ({teaching})" if teaching else "from the labels alone"
    few = " where a layer has as many" if results.params.model.width < 1 else ""
    rounded = f", rounded to multiples of {distill.round_to:,}{few}" if (distill.round_to or 1) > 1 else ""
    return [
        f"is a student with {distill.width:g} times the channels of `base`{rounded}, "
        f"{'with' if distill.stem_pool else 'without'} pooling after its stem. It started from {start} and learned "
        f"{teacher}: {_left(variant, base)}.",
        _fate(results, variant.model),
        against(variant, base, subject="Against `base` it"),
        _by_macs(variant, base),
    ]


def _int8(results: Results, variant: Variant) -> list[str]:
    chosen, parent, base = results.quantization[variant.model], results.variant(variant.model), results.variant("base")
    machine = results.profile.machine
    reduced = results.params.quantize.reduce_range
    bits = "weights in 7 bits and activations in 8" if reduced else "weights and activations in 8 bits"
    num_candidates = len(chosen.candidates)
    choice = f", the best of {num_candidates:,} calibrations on the validation images" if num_candidates > 1 else ""
    correction = "; its biases make up for the mean error of the rounded weights" if chosen.bias_correction else ""
    sentences = [
        f"is `{parent.name}` with {bits}, the activations' ranges set by "
        f"{plural(chosen.calibration_images, 'training image')} ({chosen.calibration_method}){choice}{correction}. On "
        f"the validation images it errs on {chosen.val_error_pct:.2f} %, `{parent.name}` in fp32 on "
        f"{chosen.fp32_val_error_pct:.2f} %.",
        against(variant, parent, subject=f"Against `{parent.name}` in fp32 it"),
    ]
    if machine.avx2 and not (machine.avx512_vnni or machine.avx_vnni) and not is_faster(variant, parent):
        sentences.append("This CPU lacks VNNI instructions, from which int8 gains most.")
    if parent is not base:
        sentences.append(against(variant, base, subject="Against `base` it"))
    return [*sentences, shipping(results, variant)]


def _left(variant: Variant, base: Variant) -> str:
    macs, before = (significant(each.cost.macs / 1e6, 3) for each in (variant, base))
    parameters = f"{variant.cost.num_parameters:,} of {base.cost.num_parameters:,} parameters"
    if variant.cost.macs > base.cost.macs:  # of a student without the pooling
        return f"{parameters} are left, but for {macs} million MACs instead of {before}"
    return f"{parameters} and {macs} of {before} million MACs are left"


def _adaptation(results: Results) -> list[str]:
    """How what pruning left was adapted to the loss, before any training."""
    prune, num_images = results.params.prune, results.training["base"].num_train_images
    fitted, measured = (min(count, num_images) for count in (prune.reconstruction_images, prune.batch_norm_images))
    return [
        f"After pruning, the weights left were fitted by least squares on {plural(fitted, 'training image')} to what "
        "each layer gave before."
        if fitted
        else "",
        "Its statistics of batch normalization were estimated anew after pruning, on "
        f"{plural(measured, 'training image')}."
        if measured
        else "",
    ]


def error_before(results: Results, model: str) -> str:
    """The validation error before the first step, as training computed it: `42.38 % in bf16`."""
    precision = results.training[model].precision
    return f"{results.curves[model][0].val_error_pct:.2f} %" + (f" in {precision}" if precision != "fp32" else "")


def error_after(results: Results, model: str) -> str:
    """That of its exported file: `25.94 %`, or `25.94 % in fp32` where the one before the first step is not."""
    return f"{results.val_error_pct(model):.2f} %" + " in fp32" * (results.training[model].precision != "fp32")


def _fate(results: Results, model: str) -> str:
    """The validation error before the first step, where there is one, and after the last."""
    curve, at = results.curves[model], ""
    name = "training" if model == "distilled" else "fine-tuning"
    if model == "unstructured" and rises_gradually(results):
        at = f" (at {percent(results.params.prune.start_sparsity or 0)} zeros)"
    before = f"{error_before(results, model)} before {name}{at} and " if curve[0].epoch == 0 else ""
    epochs = plural(curve[-1].epoch, "epoch")
    after = f"{error_after(results, model)} after {epochs} of {'it' if before else name}"
    return f"On the validation images its error was {before}{after}."
