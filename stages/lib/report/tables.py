"""The report's tables in Markdown, and the notes on the original's."""

from collections.abc import Mapping, Sequence

import numpy as np
from tabulate import tabulate

from stages.lib.params import Data, Params, Recipe, StudentRecipe
from stages.lib.report.results import Machine, Results, Training
from stages.lib.report.sentences import TEACHING, error_before
from stages.lib.report.wording import (
    DASH,
    duration,
    error_change,
    listed,
    megabytes,
    percent,
    plural,
    shrinkage,
    significant,
    speed_ups,
    times,
)

FEW_EPOCHS = 100  # below this, a net trained from scratch is far from what it can reach
# The results table of the report that this project started from, measured on an Nvidia Tesla T4.
ORIGINAL_ROWS = (
    "Parameters",
    "File size",
    "Top-1 error",
    "Top-5 error",
    "Runtime memory",
    "Inference time/image",
    "Total time CPU",
    "Total time CUDA",
)
ORIGINAL = {
    "base": ("6.4M", "25 MB", "22.96 %", "6.19 %", "58.66 MB", "15.74 ms", "27.395 ms", "12.64 ms"),
    "unstructured": ("6.4M", "25 MB", "27.5 %", "6.61 %", "58.66 MB", "15.6 ms", "26.788 ms", "12.64 ms"),
    "structured": ("4.09M", "16 MB", "25.85 %", "6.91 %", "46.98 MB", "16.7 ms", "31.761 ms", "10.79 ms"),
}


def data_name(data: Data) -> str:
    """What the images are called in a sentence."""
    names = {"cifar100": "CIFAR-100", "digits": "scikit-learn's digits"}
    return names.get(data.name, f"the folder `{data.folder}`")


def small_budget(params: Params) -> bool:
    """Whether the errors are those of a trial and not of a full run."""
    return params.train.epochs < FEW_EPOCHS or params.data.limit_per_class is not None


def pruning_epochs(results: Results) -> int:
    """Epochs that `structured` is trained for within pruning, besides its fine-tuning after it."""
    prune = results.params.prune
    return (prune.steps - 1) * prune.step_epochs + prune.sparsify_epochs if "structured" in results.models else 0


def variants_table(results: Results) -> str:
    """A row for every variant, with differences and ratios to `base`."""
    base = results.variant("base")
    rows = []
    for variant in results.variants:
        accuracy, cost = variant.accuracy, variant.cost
        spread = f"{significant(cost.latency_cpu_p5_ms)}{DASH}{significant(cost.latency_cpu_p95_ms)}"
        low, middle, high = (f"{times(ratio):.2f}" for ratio in np.percentile(speed_ups(cost, base.cost), (5, 50, 95)))
        rows.append(
            {
                "Variant": f"`{variant.name}`",
                "Top-1 error, %": f"{accuracy.top1_error_pct:.2f}",
                "Change, points": DASH if variant is base else f"{error_change(variant, base):+.2f}",
                "Top-5 error, %": f"{accuracy.top5_error_pct:.2f}",
                "Parameters": f"{cost.num_parameters:,}",
                "Nonzero": f"{cost.num_nonzero_parameters:,}",
                "MACs, millions": significant(cost.macs / 1e6, 3),
                "File, MB": megabytes(cost.file_bytes),
                "Times smaller": f"{times(shrinkage(variant, base)):.2f}",
                "Packed, MB": megabytes(results.quantization[variant.model].packed_bytes[variant.precision]),
                "Latency, ms": f"{significant(cost.latency_cpu_ms)} ({spread})",
                "Times as fast": middle if variant is base else f"{middle} ({low}{DASH}{high})",
                "Memory, MB": significant(cost.memory_mb),
            }
        )
    return _table(rows, num_columns=len(rows[0]))


def original_table(results: Results) -> str:
    """The original's columns, each beside the same model of this run, in PyTorch as the original ran it."""
    models = [model for model in ORIGINAL if model in results.models]
    columns: dict[str, Sequence[str]] = {"": ORIGINAL_ROWS}
    for model in models:
        variant, eager = results.variant(model), results.profile.eager[model]
        columns[f"{model}, original"] = ORIGINAL[model]
        packed = f", {megabytes(variant.cost.file_bytes)} MB packed" if model in results.params.models.packed else ""
        columns[f"{model}, ours"] = (
            f"{variant.cost.num_parameters:,}",
            f"{megabytes(eager.checkpoint_bytes)} MB{packed}",
            f"{variant.accuracy.top1_error_pct:.2f} %",
            f"{variant.accuracy.top5_error_pct:.2f} %",
            f"{significant(eager.memory_mb)} MB",
            f"{_ms(eager.latency_eager_ms)} CPU, {_ms(eager.latency_cuda_ms)} GPU",
            _ms(eager.profiler_cpu_ms),
            _ms(eager.profiler_cuda_ms),
        )
    return _table(columns, num_columns=len(columns))


def original_notes(results: Results) -> str:
    """What to bear in mind when reading the two reports side by side."""
    params = results.params
    notes = []
    if params.data.name != "cifar100":
        name = data_name(params.data)
        notes.append(f"The original's errors are those on CIFAR-100; those on {name} can't be compared with them.")
    elif params.data.limit_per_class:
        notes.append("The original was trained on all of CIFAR-100, this run on a part of it.")
    finetuned = f" and {params.finetune.epochs:,g}" if results.compression else ""
    if within := pruning_epochs(results):
        finetuned += f", and `structured` for {within:,} more within pruning"
    notes += [
        "The original was trained for 200 epochs and fine-tuned for about 100, this run for "
        f"{params.train.epochs:,g}{finetuned}.",
        "The original chose its best epoch on the test images, which flatters its errors. No epoch or setting is "
        "chosen on ours; only the highlights at the top are ranked by their errors on them.",
        "The original had an Nvidia Tesla T4, and doesn't say which CPU, whether its inference time is the CPU's or "
        "the GPU's, or what its memory is the memory of.",
        "Ours are PyTorch in eager mode, as the original ran it, one image at a time; the file is the `.safetensors` "
        "checkpoint, the errors are those of its fp32 ONNX file. Total times are of one image, by PyTorch's profiler, "
        "of one model after the other and not in turns.",
    ]
    if "unstructured" in results.models:
        notes.append(_sparse_note(results))
    if any(eager.latency_cuda_ms is None for eager in results.profile.eager.values()):
        notes.append(f"{DASH} marks what was not measured: the machine of the profile had no GPU.")
    notes.append(
        'The original tried int8 too and got no model of good accuracy, most likely for "the experimental nature of '
        'PyTorch Quantization", as it says. Ours is made by ONNX Runtime; what failed then was not looked for here.'
    )
    return "\n".join(f"- {note}" for note in notes)


def _sparse_note(results: Results) -> str:
    """What to compare the original's unstructured model with: it wasn't retrained, and its file kept the zeros."""
    curve, cost, prune = results.curves["unstructured"], results.variant("unstructured").cost, results.params.prune
    sparsity = prune.sparsity if prune.start_sparsity is None else prune.start_sparsity
    before = (
        f" Ours had {error_before(results, 'unstructured')} on the validation images then, at {percent(sparsity)} "
        "zeros."
        if curve[0].epoch == 0
        else ""
    )
    note = (
        "The original doesn't tell the share of zeros in its unstructured model, and nothing of fine-tuning it, so its "
        f"27.5 % are taken to be those before any.{before}"
    )
    if cost.file_bytes < cost.onnx_bytes:
        note += (
            " The original found that its file keeps its size; so does our checkpoint, but the packed file is "
            f"{times(cost.onnx_bytes / cost.file_bytes):.2f} times smaller than the ONNX file."
        )
    return note


def setup_table(results: Results) -> str:
    """Data, training budgets and machine of the run."""
    params, training = results.params, results.training["base"]
    limit = params.data.limit_per_class
    num_test = results.variant("base").accuracy.num_images
    width = "" if params.model.width == 1 else f" with {params.model.width:g} times its channels"
    finetuned = [model for model in results.models if model in params.models.finetuned]
    within = pruning_epochs(results)
    rows = [
        ("Data", data_name(params.data) + (f", at most {plural(limit, 'image')} of each class" if limit else "")),
        (
            "Images",
            f"{training.num_train_images:,} for training, {training.num_val_images:,} for validation (held out of the "
            f"training images), {num_test:,} for the test",
        ),
        ("Network", f"GoogLeNet{width}, {'with' if params.model.stem_pool else 'without'} pooling after its stem"),
        ("Training of `base`", _budget(params.train, training)),
        *((f"Fine-tuning of `{model}`", _budget(params.finetune, results.training[model])) for model in finetuned),
        *([("Training within structured pruning", plural(within, "epoch"))] if within else []),
        *(
            (f"Training of `{model}`", _budget(params.distill, results.training[model]))
            for model in results.models
            if model == "distilled"
        ),
        ("Machine of the profile", _hardware(results.profile.machine)),
        ("Software of the profile", _software(results.profile.machine)),
    ]
    return tabulate(rows, headers=("", "This run"), tablefmt="pipe", disable_numparse=True)


def _budget(recipe: Recipe, training: Training) -> str:
    total = sum(recipe.image_sizes.values())
    sizes = ", then ".join(
        f"{size} px" + (f" for {percent(share / total)}" if share < total else "")
        for size, share in recipe.image_sizes.items()
    )
    loss = recipe.distillation.loss if isinstance(recipe, StudentRecipe) else "none"
    teacher = f"with `base` as its teacher ({TEACHING[loss]}), " if loss != "none" else ""
    muon = "" if recipe.muon_lr is None else ", convolutions by Muon"
    return (
        f"{teacher}{plural(recipe.epochs, 'epoch')}{muon}, batches of "
        f"{min(recipe.batch_size, training.num_train_images):,}, images of {sizes}; "
        f"{duration(training.seconds)} on {training.device}, in {training.precision}"
    )


def _hardware(machine: Machine) -> str:
    flags = {"AVX2": machine.avx2, "AVX-512": machine.avx512f, "VNNI": machine.avx512_vnni or machine.avx_vnni}
    facts = [
        machine.cpu,
        plural(machine.physical_cores, "physical core") if machine.physical_cores else "",
        plural(machine.threads, "thread") + " used",
        listed([flag for flag, there in flags.items() if there]),
        f"{machine.ram_gb:g} GB of memory",
        f"GPU: {machine.gpu or 'none'}",
    ]
    return ", ".join(filter(None, facts)).replace("|", "/")  # a bar would end the cell


def _software(machine: Machine) -> str:
    return f"{machine.os}, Python {machine.python}, PyTorch {machine.torch}, ONNX Runtime {machine.onnxruntime}"


def _ms(value: float | None) -> str:
    return DASH if value is None else f"{significant(value)} ms"


def text_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of words, all columns to the left."""
    return tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)


def _table(content: Sequence[Mapping[str, str]] | Mapping[str, Sequence[str]], *, num_columns: int) -> str:
    """A table of rows or of columns by their headers, the first column to the left and numbers to the right."""
    alignment = ("left", *("right",) * (num_columns - 1))
    return tabulate(content, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=alignment)
