"""The report in Markdown: every sentence is made from the results, whichever way they went."""

from stages.lib.report.highlights import summary
from stages.lib.report.promises import promises_section
from stages.lib.report.references import references
from stages.lib.report.results import Results
from stages.lib.report.sentences import paragraph
from stages.lib.report.tables import (
    data_name,
    original_notes,
    original_table,
    pruning_epochs,
    setup_table,
    small_budget,
    variants_table,
)
from stages.lib.report.wording import (
    SAME_LATENCY,
    listed,
    percent,
    plural,
    significant,
    speed_up,
)

BUSY = 3  # times as long as its quick calls take the slow ones of a machine with other work
PROFILE_AGAIN = "dvc repro --force --single-item profile report"
REPRODUCE = """\
```sh
dvc repro                          # runs what is out of date and writes this report
dvc exp run -S prune.ratio=0.3     # turns one knob; only what depends on it runs again
dvc metrics diff                   # says what changed
```"""


def render_report(results: Results) -> str:
    """The whole report; it shows the figures beside it."""
    parts = [
        "# What compressing GoogLeNet costs and gains",
        *_budget_warning(results),
        *_busy_warning(results),
        summary(results),
        *_longer_training(results),
        "![Top-1 error of every variant against its file size and its latency](figures/tradeoffs.svg)",
        "*Each variant's top-1 error against its file size and its latency; bars are one standard error.*",
        "## Promises",
        promises_section(results),
        "## All variants",
        variants_table(results),
        "Differences and ratios are to `base` in fp32, in this run; ratios are rounded down, so that none looks like a "
        "goal that it misses. A latency is the median of all calls; how many times as fast is the median of the ratios "
        "in each round, so that it can differ from the ratio of the latencies beside it. Both have their 5th to 95th "
        "percentile in parentheses. Parameters of an int8 variant are those of the model that it was made from. "
        "Latency and memory have two digits; at another hour the same machine can differ by more, in ratios too. "
        f"File is what ships{_packed(results)}; Packed is what its ONNX file has when packed, be it shipped so or not. "
        f"1 MB is a million bytes.{_top5(results)}",
        "## What each method costs and gains",
        *(paragraph(results, variant) for variant in results.variants),
        "A difference in top-1 error counts as noise below two of its standard errors. Both models are tested on the "
        "same images, so only those that one of them alone misses count. That is the noise of the choice of test "
        "images; training again from another seed would move errors too, by how much was not measured. A difference in "
        f"latency below {percent(SAME_LATENCY)}, within this one profile, counts as none.{_same_graph(results)} "
        f"Profiles of different hours can differ by more: make another (`{PROFILE_AGAIN}`) before you rely on a small "
        "difference.",
        *_channels(results),
        "## Beside the original report",
        original_table(results),
        original_notes(results),
        "## What was run",
        setup_table(results),
        "Of the machine of a training, only what its row says is recorded; it can be another than that of the profile.",
        "![Validation error and training loss by epoch, of each model](figures/curves.svg)",
        _curves(results),
        "## How it was measured",
        _method(results),
        "## How to reproduce it",
        REPRODUCE,
        "## References",
        references(results),
    ]
    return "\n\n".join(parts) + "\n"


def _budget_warning(results: Results) -> list[str]:
    """A plain statement, if the errors are those of a trial and not of a full run."""
    params = results.params
    if not small_budget(params):
        return []
    budgets = [f"{plural(params.train.epochs, 'epoch')} of training"]
    if results.compression:
        budgets.append(f"{params.finetune.epochs:,g} of fine-tuning")
    if within := pruning_epochs(results):
        budgets.append(f"{within:,} within structured pruning")
    if "distilled" in results.models:
        budgets.append(f"{params.distill.epochs:,g} of training the student")
    return [
        f"**This run had a small budget:** {listed(budgets)}, on "
        f"{results.training['base'].num_train_images:,} images of {data_name(params.data)}. "
        "Its errors say how the methods compare, not how good they can get."
    ]


def _longer_training(results: Results) -> list[str]:
    """A plain statement of which models had the training of `base` and their own."""
    started = [f"`{m}`" for m in results.models if m in results.compression or _starts_from_base(results, m)]
    if not started:
        return []
    return [
        f"Started from `base`, and so trained for longer in all: {listed(started)}. Where one of them errs less than "
        "`base`, that can be why: how `base` would do with as much more was not tested."
    ]


def _busy_warning(results: Results) -> list[str]:
    """A plain statement, if the latencies are those of a machine that did other work, too."""
    cost = results.variant("base").cost
    if cost.latency_cpu_p95_ms <= BUSY * cost.latency_cpu_p5_ms:
        return []
    return [
        f"**The machine was busy during the profile:** calls of `base` took {significant(cost.latency_cpu_p5_ms)} to "
        f"{significant(cost.latency_cpu_p95_ms)} ms (5th to 95th percentile). Don't rely on the latencies here, nor on "
        f"their ratios; make another profile when it is quiet (`{PROFILE_AGAIN}`)."
    ]


def _starts_from_base(results: Results, model: str) -> bool:
    return model == "distilled" and results.params.distill.start == "base"


def _top5(results: Results) -> str:
    if any(variant.accuracy.top5_error_pct for variant in results.variants):
        return ""
    return " No variant has a top-5 error; with five classes or fewer none can have one."


def _packed(results: Results) -> str:
    packed = [f"`{model}`" for model in results.models if model in results.params.models.packed]
    return f": packed for {listed(packed)}, ONNX for the others" if packed else ", an ONNX file"


def _same_graph(results: Results) -> str:
    """How far two equal latencies lie apart, which tells what a difference is worth."""
    if "unstructured" not in results.models:
        return ""
    ratio = speed_up(results.variant("base"), results.variant("unstructured"))
    return f" Here `unstructured`, whose graph is that of `base`, took {ratio:.2f} times as long."


def _channels(results: Results) -> list[str]:
    """The figure of what pruning and factorization left of each layer, where there is something to show."""
    if not ({"structured", "lowrank"} & set(results.compression)):
        return []
    shown = {
        "structured": "the output channels that structured pruning kept",
        "lowrank": "the ranks of low-rank factorization (a layer without a bar is whole)",
    }
    kinds = listed([kind for model, kind in shown.items() if model in results.compression])
    return [
        "![Channels and ranks that are left in each convolution](figures/channels.svg)",
        f"*What is left of each convolution, in forward order: {kinds}.*",
    ]


def _curves(results: Results) -> str:
    """What to know when reading the curves."""
    notes = ["Validation error and training loss by epoch."]
    if any(curve[0].epoch == 0 for curve in results.curves.values()):
        notes.append(
            "Epoch 0 is a model before its first step: pruned, factorized or narrowed, and not yet trained further"
            + (", but for `structured`, which was trained within pruning." if pruning_epochs(results) else ".")
        )
    recipes = {"base": results.params.train, "distilled": results.params.distill}
    sizes = {size for model in results.models for size in recipes.get(model, results.params.finetune).image_sizes}
    if min(sizes) < 32:
        notes.append(
            "Validation images have 32 px: while a model is trained on smaller ones, its error looks worse than it is."
        )
    if any(training.precision != "fp32" for training in results.training.values()):
        notes.append(
            "Errors here are in the precision of training, so that they differ a little from those of the fp32 files."
        )
    return f"*{' '.join(notes)}*"


def _method(results: Results) -> str:
    profile = results.profile
    notes = [
        "Test images are read by the stage `evaluate` alone, once for each variant. No epoch is chosen, the last one "
        "counts. The ranges of activations are set by training images; which of the calibrations counts is chosen on "
        "the validation images.",
        f"Latency is that of one image at a time on {plural(profile.machine.threads, 'thread')}, uint8 image in and "
        f"logits out. Each model runs in a process of its own, and they take turns: {plural(profile.rounds, 'round')} "
        f"of {plural(profile.calls_per_round, 'timed call')} each, in shuffled order and after a warm-up, so that busy "
        "moments of the machine are spread over all of them.",
        "Memory is the growth of the process's resident memory at its peak, from just before the model was loaded, "
        "with the libraries already imported; to restore a packed model takes its share.",
        "MACs are multiply-accumulates of convolutions and the linear layer for one image; zeros count as any value.",
        _platforms(results),
        "Errors hardly depend on the machine; latency and memory are those of the machine above.",
    ]
    return "\n".join(f"- {note}" for note in notes)


def _platforms(results: Results) -> str:
    """On which kind of CPU the int8 files ran, and on which they did not."""
    machine = results.profile.machine
    vnni = machine.avx512_vnni or machine.avx_vnni
    if not (machine.avx2 or machine.avx512f or vnni):
        return "The int8 files were timed on this CPU alone, of which no vector instructions are known."
    ours, other = ("with", "without") if vnni else ("without", "with")
    return (
        f"The int8 files were timed on this x86 CPU {ours} VNNI; in this run they were timed on none {other} it, "
        "and on no ARM CPU."
    )
