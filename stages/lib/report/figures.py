"""The report's figures, as SVG text that is the same for the same numbers."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.lib.report.results import Compression, Epoch, Variant
from stages.lib.report.wording import standard_error_pct

LABEL_SPACING = 0.07  # of the height of the axes
LABEL_DISTANCE = 0.05  # of the width of the axes, from the point to its name
RIGHT_UP_TO = 0.6  # of the width of the axes: names stand on the right of points up to here, else on the left
FEW_EPOCHS = 30  # up to here each epoch gets a dot, so that a single one can be seen


def draw_curves(curves: Mapping[str, Sequence[Epoch]]) -> str:
    """Validation error and training loss by epoch: a row each for `base`, the fine-tuned models and the student."""
    colors = _colors(curves)
    others = [model for model in curves if model not in ("base", "distilled")]
    rows = {"Training": ["base"], "Fine-tuning": others, "Student": [m for m in curves if m == "distilled"]}
    rows = {title: models for title, models in rows.items() if models}
    figure = Figure(figsize=(9, 3.2 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for (title, models), (error_axes, loss_axes) in zip(rows.items(), panels, strict=True):
        for model in models:
            epochs = curves[model]
            style = {"color": colors[model], "marker": "o" if len(epochs) <= FEW_EPOCHS else None, "markersize": 4}
            label = f"{model}, {epochs[-1].val_error_pct:.2f} % at the end"
            error_axes.plot([row.epoch for row in epochs], [row.val_error_pct for row in epochs], label=label, **style)
            trained = [row for row in epochs if row.train_loss is not None]  # epoch 0 has no loss yet
            loss_axes.plot([row.epoch for row in trained], [row.train_loss for row in trained], label=model, **style)
        for axes, name in ((error_axes, "validation error, %"), (loss_axes, "training loss")):
            axes.set(title=title, xlabel="epoch", ylabel=name)
            axes.margins(y=0.2)  # room for the legend
            axes.set_ylim(bottom=0)
            last = max(curves[model][-1].epoch for model in models)
            axes.set_xlim(0, 1.03 * last)
            axes.xaxis.set_major_locator(MaxNLocator(integer=last >= 1))
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
    return _svg(figure)


def draw_channels(compression: Mapping[str, Compression]) -> str:
    """Channels kept of each convolution, against the base's, and the ranks of the factorized layers."""
    panels: list[tuple[str, str, Sequence[int], Sequence[int]]] = []
    if "structured" in compression:
        shape = compression["structured"]
        panels.append(("structured: output channels", "kept", shape.widths, shape.base_widths))
    if "lowrank" in compression:
        shape = compression["lowrank"]
        ranks = shape.ranks[: len(shape.widths)] or [0] * len(shape.widths)  # without the linear layer
        panels.append(("lowrank: ranks beside output channels", "rank", ranks, shape.widths))
    figure = Figure(figsize=(9, 2.8 * len(panels)), layout="constrained")
    for axes, (title, label, kept, before) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True
    ):
        layers = range(1, len(before) + 1)
        axes.bar(layers, before, color="0.85", width=0.9, label="output channels of base")
        axes.bar(layers, kept, color="C1", width=0.6, label=label)
        axes.set(title=title, xlabel="convolution, in forward order", ylabel="channels", xlim=(0, len(before) + 1))
        axes.legend(fontsize="small")
    return _svg(figure)


def draw_tradeoffs(variants: Sequence[Variant]) -> str:
    """Top-1 error of every variant against its file size and its latency; bars are one standard error."""
    colors = _colors(variant.model for variant in variants)
    costs: dict[str, Callable[[Variant], float]] = {
        "file, MB": lambda variant: variant.cost.file_bytes / 1e6,
        "latency of one image, ms": lambda variant: variant.cost.latency_cpu_ms,
    }
    figure = Figure(figsize=(10, 5), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True)
    for axes, (label, cost) in zip(panels, costs.items(), strict=True):
        for variant in variants:
            axes.errorbar(
                cost(variant),
                variant.accuracy.top1_error_pct,
                yerr=standard_error_pct(variant.accuracy),
                fmt="o" if variant.precision == "fp32" else "s",
                color=colors[variant.model],
                elinewidth=0.8,
            )
        axes.set(xlabel=label, xlim=(0, 1.1 * max(map(cost, variants))))
        axes.grid(alpha=0.3)
        axes.margins(y=0.12)
    panels[0].set_ylabel("top-1 error on the test images, %")
    # Only now are the limits of the axes, which both panels share, those that the labels are placed by.
    for axes, cost in zip(panels, costs.values(), strict=True):
        _label(axes, [(cost(variant), variant.accuracy.top1_error_pct, variant.name) for variant in variants])
    return _svg(figure)


def _label(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Name each point on the side with more room, moving names apart where they would overlap."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    sides: dict[str, list[tuple[float, float, tuple[float, float], str]]] = {"left": [], "right": []}
    for x, y, name in points:
        across, height = to_fraction.transform((x, y))
        sides["right" if across < RIGHT_UP_TO else "left"].append((height, across, (x, y), name))
    for side, labels in sides.items():
        labels.sort()
        heights = _spread([height for height, *_ in labels])
        for height, (_, across, point, name) in zip(heights, labels, strict=True):
            axes.annotate(
                name,
                point,
                (across + (LABEL_DISTANCE if side == "right" else -LABEL_DISTANCE), height),
                textcoords="axes fraction",
                ha="left" if side == "right" else "right",
                va="center",
                fontsize="small",
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6},
            )


def _spread(heights: Sequence[float]) -> list[float]:
    """Rising heights moved apart by `LABEL_SPACING`: first up, and then down from the top of the axes."""
    spread: list[float] = []
    for height in heights:
        spread.append(max(height, spread[-1] + LABEL_SPACING) if spread else height)
    top = 1 - LABEL_SPACING / 2
    for index in reversed(range(len(spread))):
        spread[index] = min(spread[index], top)
        top = spread[index] - LABEL_SPACING
    return spread


def _colors(models: Any) -> dict[str, str]:
    """A color for each model, in order of appearance."""
    return {model: f"C{index}" for index, model in enumerate(dict.fromkeys(models))}


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # A fixed salt and no date keep the file the same; the white ground keeps it readable on a dark page.
    with mpl.rc_context({"svg.hashsalt": "googlenet-compression"}):
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()
