"""The report's figures, as SVG text that is the same for the same numbers."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.lib.models import MODELS
from stages.lib.report.files import Compression, Epoch
from stages.lib.report.results import Results
from stages.lib.report.statistics import standard_error_pct
from stages.lib.report.tables import VariantRow

LABEL_SPACING = 0.07  # of the height of the axes
LABEL_DISTANCE = 0.05  # of the width of the axes, from the point to its name
RIGHT_UP_TO = 0.6  # of the width of the axes: names stand on the right of points up to here, else on the left
FEW_EPOCHS = 30  # up to here each epoch gets a dot, so that a single one can be seen
Panel = tuple[str, str, str, Sequence[int], Sequence[int]]  # model, title, label, what is left, what was there
COLORS = {model: f"C{index}" for index, model in enumerate(MODELS)}


def draw_curves(results: Results) -> str:
    """Validation error and training loss by epoch: a row of panels for each section of the parameters that trains."""
    sections: dict[str, dict[str, list[Epoch]]] = {}
    for name, model in MODELS.items():
        sections.setdefault(model.recipe, {})[name] = results.curves[name]
    figure = Figure(figsize=(9, 3.2 * len(sections)), layout="constrained")
    panels = figure.subplots(len(sections), 2, squeeze=False)
    for (section, curves), (error_axes, loss_axes) in zip(sections.items(), panels, strict=True):
        for name, curve in curves.items():
            style = {"color": COLORS[name], "marker": "o" if len(curve) <= FEW_EPOCHS else None, "markersize": 4}
            label = f"{name}, {curve[-1].val_error_pct:.2f} % at the end"
            error_axes.plot(*_points(curve, "val_error_pct"), label=label, **style)
            if any(row.val_error_at_size_pct not in (None, row.val_error_pct) for row in curve):
                label = f"{name}, at the size trained on"
                points = _points(curve, "val_error_at_size_pct")
                error_axes.plot(*points, label=label, color=COLORS[name], linestyle=":")
            loss_axes.plot(*_points(curve, "train_loss"), label=name, **style)
        for axes, label in ((error_axes, "validation error, %"), (loss_axes, "training loss")):
            axes.set(title=section, xlabel="epoch", ylabel=label)
            axes.margins(y=0.2)  # room for the legend
            axes.set_ylim(bottom=0)
            last = max(curve[-1].epoch for curve in curves.values())
            axes.set_xlim(0, 1.03 * last or 1)
            axes.xaxis.set_major_locator(MaxNLocator(integer=last >= 1))
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
    return svg(figure)


def shows_channels(compression: Mapping[str, Compression]) -> bool:
    """Whether a model has fewer channels or thinner layers than `base`."""
    return bool(_panels(compression))


def draw_channels(compression: Mapping[str, Compression]) -> str:
    """What is left of each convolution: channels beside those of `base`, and the ranks of factorized layers."""
    panels = _panels(compression)
    figure = Figure(figsize=(9, 2.8 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (model, title, label, left, before) in zip(all_axes, panels, strict=True):
        layers = range(1, len(before) + 1)
        axes.bar(layers, before, color="0.85", width=0.9, label="output channels of base")
        axes.bar(layers, left, color=COLORS[model], width=0.6, label=label)
        axes.set(
            title=f"{model}: {title}",
            xlabel="convolution, in forward order",
            ylabel="channels",
            xlim=(0, len(before) + 1),
        )
        axes.legend(fontsize="small")
    return svg(figure)


def draw_tradeoffs(rows: Sequence[VariantRow]) -> str:
    """Top-1 error of every variant against its file size and its latency; bars are 95 % intervals."""
    costs: dict[str, Callable[[VariantRow], float]] = {
        "file, MB": lambda row: row.cost.file_bytes / 1e6,
        "latency of one image, ms": lambda row: row.cost.latency_cpu_ms,
    }
    figure = Figure(figsize=(10, 5), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True)
    for axes, (label, cost) in zip(panels, costs.items(), strict=True):
        for row in rows:
            axes.errorbar(
                cost(row),
                row.accuracy.top1_error_pct,
                yerr=2 * standard_error_pct(row.accuracy),
                fmt="o" if row.precision == "fp32" else "s",
                color=COLORS[row.model.name],
                elinewidth=0.8,
            )
        axes.set(xlabel=label, xlim=(0, 1.1 * max(map(cost, rows))))
        axes.grid(alpha=0.3)
        axes.margins(y=0.12)
    panels[0].set_ylabel("top-1 error on the test images, %")
    # Only now are the limits of the axes, which both panels share, those that the labels are placed by.
    for axes, cost in zip(panels, costs.values(), strict=True):
        _label(axes, [(cost(row), row.accuracy.top1_error_pct, row.name) for row in rows])
    return svg(figure)


def _points(curve: Sequence[Epoch], column: str) -> tuple[list[float], list[float]]:
    """Epochs and values of a column, where it was measured."""
    measured = [(row.epoch, value) for row in curve if (value := getattr(row, column)) is not None]
    return [epoch for epoch, _ in measured], [value for _, value in measured]


def _panels(compression: Mapping[str, Compression]) -> list[Panel]:
    """A panel for each model that lost channels or ranks."""
    panels: list[Panel] = []
    for model, shape in compression.items():
        if shape.widths != shape.base_widths:
            panels.append((model, "output channels", "left", shape.widths, shape.base_widths))
        if any(shape.ranks):  # without the linear layer
            panels.append((model, "ranks, where factorized", "rank", shape.ranks[:-1], shape.base_widths))
    return panels


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


def svg(figure: Figure) -> str:
    """The figure as text that is the same for the same numbers."""
    buffer = io.StringIO()
    # A fixed salt and no date keep the file the same; the white ground keeps it readable on a dark page.
    with mpl.rc_context({"svg.hashsalt": "googlenet-compression"}):
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()
