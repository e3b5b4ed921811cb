"""The report in Markdown: every sentence is made from the results, whichever way they went."""

from collections.abc import Sequence

from stages.lib.results import Results, Variant
from stages.lib.tables import data_name, original_notes, original_table, setup_table, variants_table
from stages.lib.wording import (
    SAME_LATENCY,
    error_verdict,
    gains_nothing,
    is_faster,
    is_smaller,
    latency_verdict,
    listed,
    megabytes,
    percent,
    plural,
    significant,
    size_verdict,
    standard_error_pct,
    within_noise,
)

FEW_EPOCHS = 100  # below this, a CIFAR-100 net is far from what it can reach
SIMD_CHANNELS = 8  # float32 values in an AVX2 register

REPRODUCE = """\
```sh
dvc repro                          # runs what is out of date and writes this report
dvc exp run -S prune.ratio=0.3     # turns one knob; only what depends on it runs again
dvc metrics diff                   # says what changed
```"""

REFERENCES = {
    "base": "GoogLeNet: C. Szegedy et al., [Going Deeper with Convolutions](https://arxiv.org/abs/1409.4842), CVPR "
    "2015; its form for small images follows [weiaicunzai/pytorch-cifar100](https://github.com/weiaicunzai/pytorch-cifar100).",
    "structured": "Structured pruning: G. Fang et al., [DepGraph: Towards Any Structural Pruning]"
    "(https://arxiv.org/abs/2301.12900), CVPR 2023.",
    "unstructured": "Unstructured pruning: S. Han et al., [Learning both Weights and Connections for Efficient Neural "
    "Networks](https://arxiv.org/abs/1506.02626), NeurIPS 2015.",
    "kd": "Distillation: G. Hinton et al., [Distilling the Knowledge in a Neural Network]"
    "(https://arxiv.org/abs/1503.02531), 2015.",
    "standardized_kd": "Distillation: S. Sun et al., [Logit Standardization in Knowledge Distillation]"
    "(https://arxiv.org/abs/2403.01427), CVPR 2024.",
    "int8": "Quantization: B. Jacob et al., [Quantization and Training of Neural Networks for Efficient "
    "Integer-Arithmetic-Only Inference](https://arxiv.org/abs/1712.05877), CVPR 2018; [ONNX Runtime's static "
    "quantization](https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).",
}


def render_report(results: Results) -> str:
    """The whole report; it shows `figures/tradeoffs.svg` and `figures/curves.svg` beside it."""
    parts = [
        "# What compressing GoogLeNet costs and gains",
        *_budget_warning(results),
        _summary(results),
        "![Top-1 error of every variant against its file size and its latency](figures/tradeoffs.svg)",
        "*Each variant's top-1 error against its file size and its latency; bars are one standard error.*",
        "## All variants",
        variants_table(results),
        "Differences and ratios are to `base` in fp32, in this run. A latency is a median, with the 5th to 95th "
        "percentile in parentheses. Parameters of an int8 variant are those of the model that it was made from. "
        "Latency and memory have two digits; at another hour the same machine can differ by more, in ratios too. "
        "1 MB is a million bytes.",
        "## What each method costs and gains",
        *(_paragraph(results, variant) for variant in results.variants),
        "A difference in top-1 error counts as noise below two standard errors of the difference, taking the two "
        "models' mistakes as independent. They are tested on the same images, so the true noise is smaller. A "
        f"difference in latency below {percent(SAME_LATENCY)} counts as none.",
        "## Beside the original report",
        original_table(results),
        original_notes(results),
        "## What was run",
        setup_table(results),
        "![Validation error and training loss by epoch, of the base model and of fine-tuning](figures/curves.svg)",
        "*Validation error and training loss by epoch. Epoch 0 of a fine-tuning is the pruned model as it came. "
        "Validation images have 32 px: while a model is trained on smaller ones, its error looks worse than it is.*",
        "## How it was measured",
        _method(results),
        "## How to reproduce it",
        REPRODUCE,
        "## References",
        _references(results),
    ]
    return "\n\n".join(parts) + "\n"


def _references(results: Results) -> str:
    """The sources of the methods of this run."""
    loss = results.params.finetune.distillation.loss if len(results.models) > 1 else "none"
    keys = [*results.models, *([loss] if loss != "none" else []), "int8"]
    return "\n".join(f"- {REFERENCES[key]}" for key in keys)


def _budget_warning(results: Results) -> list[str]:
    """A plain statement, if the errors are those of a trial and not of a full run."""
    params = results.params
    if params.data.name == "cifar100" and params.train.epochs >= FEW_EPOCHS and params.data.limit_per_class is None:
        return []
    finetuning = f" and {params.finetune.epochs:,} of fine-tuning" if len(results.models) > 1 else ""
    return [
        f"**This run had a small budget:** {plural(params.train.epochs, 'epoch')} of training{finetuning}, on "
        f"{results.training['base'].num_train_images:,} images of {data_name(params.data)}. "
        "Its errors say how the methods compare, not how good they can get."
    ]


def _summary(results: Results) -> str:
    """Where the base model stands, and which variants are worth a look."""
    base = results.variant("base")
    accurate = [
        variant
        for variant in results.variants
        if variant.accuracy.top1_error_pct <= base.accuracy.top1_error_pct
        or within_noise(variant.accuracy, base.accuracy)
    ]
    winners = {
        "smallest": _smallest(results.variants),
        "fastest": _fastest(results.variants),
        "most accurate": _most_accurate(results.variants),
        "fastest without a loss of accuracy beyond noise": _fastest(accurate),
    }
    lines = [
        f"The base model, a GoogLeNet trained on {data_name(results.params.data)}, errs on "
        f"{base.accuracy.top1_error_pct:.2f} % of {base.accuracy.num_images:,} test images, has a file of "
        f"{megabytes(base.cost.file_bytes)} MB and takes {significant(base.cost.latency_cpu_ms)} ms an image on the "
        f"CPU. Of the {plural(len(results.variants), 'variant')} compared:",
        "",
    ]
    for name in dict.fromkeys(winner.name for winner in winners.values()):
        variant = results.variant(name)
        roles = listed([role for role, winner in winners.items() if winner is variant]).capitalize()
        found = "No compression does better." if variant is base else _against(variant, base, subject="It")
        lines.append(f"- **{roles}: `{name}`.** {found}")
    return "\n".join(lines)


def _smallest(variants: Sequence[Variant]) -> Variant:
    """The variant of the smallest file; of several as small, the most accurate."""
    smallest = min(variants, key=lambda variant: variant.cost.file_bytes)
    return _most_accurate([variant for variant in variants if not is_smaller(smallest, variant)])


def _fastest(variants: Sequence[Variant]) -> Variant:
    """The fastest variant; of several as fast, the most accurate."""
    fastest = min(variants, key=lambda variant: variant.cost.latency_cpu_ms)
    return _most_accurate([variant for variant in variants if not is_faster(fastest, variant)])


def _most_accurate(variants: Sequence[Variant]) -> Variant:
    return min(variants, key=lambda variant: variant.accuracy.top1_error_pct)


def _paragraph(results: Results, variant: Variant) -> str:
    """What a variant is, and what it costs and gains against the model that it was made from."""
    if variant.name == "base":
        sentences = _base_sentences(variant)
    elif variant.precision == "fp32":
        sentences = _pruned_sentences(results, variant)
    else:
        sentences = _int8_sentences(results, variant)
    return " ".join((f"**`{variant.name}`**", *sentences))


def _base_sentences(base: Variant) -> list[str]:
    return [
        f"is what the others are compared with: {base.cost.num_parameters:,} parameters and "
        f"{significant(base.cost.macs / 1e6, 3)} million MACs for one image. Its top-1 error of "
        f"{base.accuracy.top1_error_pct:.2f} % on {base.accuracy.num_images:,} test images has a standard error of "
        f"{standard_error_pct(base.accuracy):.2f} points."
    ]


def _pruned_sentences(results: Results, variant: Variant) -> list[str]:
    prune, base, curve = results.params.prune, results.variant("base"), results.curves[variant.model]
    fate = (
        f"On the validation images its error was {curve[0].val_error_pct:.2f} % before fine-tuning and "
        f"{curve[-1].val_error_pct:.2f} % after {plural(curve[-1].epoch, 'epoch')} of it."
    )
    against = _against(variant, base, subject="Against `base` it")
    if variant.model == "unstructured":
        return [
            f"has {percent(prune.sparsity)} of its weights set to zero, those of smallest magnitude: "
            f"{variant.cost.num_nonzero_parameters:,} of {variant.cost.num_parameters:,} parameters are not zero.",
            fate,
            against,
            "The zeros are stored densely in the ONNX file and ONNX Runtime multiplies by them all the same; only a "
            "sparse format, with kernels for it, would make them pay.",
        ]
    share = percent(prune.ratio) + (" or more" if prune.round_to else "")  # rounding takes further channels
    sentences = [
        f"lacks {share} of the channels of every convolution, those of smallest norm: "
        f"{variant.cost.num_parameters:,} of {base.cost.num_parameters:,} parameters and "
        f"{significant(variant.cost.macs / 1e6, 3)} of {significant(base.cost.macs / 1e6, 3)} million MACs are left.",
        fate,
        against,
    ]
    if prune.round_to is None or prune.round_to % SIMD_CHANNELS:
        cause = (
            "Some of the possible speed is probably lost"
            if is_faster(variant, base)
            else "A likely cause of this speed"
        )
        sentences.append(
            f"{cause}: `prune.round_to: {prune.round_to or 'null'}` leaves channel counts that are no multiple of "
            f"{SIMD_CHANNELS}, and these fill the CPU's vector instructions badly."
        )
    return sentences


def _int8_sentences(results: Results, variant: Variant) -> list[str]:
    quantize, parent, base = results.params.quantize, results.variant(variant.model), results.variant("base")
    machine = results.profile.machine
    num_images = min(quantize.calibration_images, results.training["base"].num_train_images)
    bits = "weights in 7 bits and activations in 8" if quantize.reduce_range else "weights and activations in 8 bits"
    sentences = [
        f"is `{parent.name}` with {bits}, the activations' ranges set by "
        f"{plural(num_images, 'training image')} ({quantize.calibration_method}).",
        _against(variant, parent, subject=f"Against `{parent.name}` in fp32 it"),
    ]
    if machine.avx2 and not (machine.avx512_vnni or machine.avx_vnni) and not is_faster(variant, parent):
        sentences.append("This CPU lacks VNNI instructions, from which int8 gains most.")
    if parent is not base:
        sentences.append(_against(variant, base, subject="Against `base` it"))
    return sentences


def _against(variant: Variant, reference: Variant, *, subject: str) -> str:
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


def _method(results: Results) -> str:
    profile = results.profile
    notes = [
        "Test images are read by the stage `evaluate` alone, once for each variant. No epoch is chosen, the last one "
        "counts; the ranges of activations are set by training images.",
        f"Latency is that of one image at a time on {plural(profile.machine.threads, 'thread')}, uint8 image in and "
        f"logits out. Each model runs in a process of its own, and they take turns: {plural(profile.rounds, 'round')} "
        f"of {plural(profile.calls_per_round, 'timed call')} each, in shuffled order and after a warm-up, so that a "
        "busy moment of the machine hits all of them alike.",
        "Memory is the growth of the process's resident memory at its peak, from just before the model was loaded, "
        "with the libraries already imported.",
        "MACs are multiply-accumulates of convolutions and the linear layer for one image; zeros count as any value.",
        "Errors hardly depend on the machine; latency and memory are those of the machine above.",
    ]
    return "\n".join(f"- {note}" for note in notes)
