"""The rows of the report's tables: plain numbers with their noise, from which any page can be rendered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from stages.lib.models import MODELS, PRECISIONS, Model, Precision, variant_name
from stages.lib.report.files import Accuracy, Adopted, AdoptedCost, Cost, Quantization, Training
from stages.lib.report.results import Results
from stages.lib.report.statistics import (
    SAME_LATENCY,
    SAME_SIZE,
    ClassChange,
    Difference,
    Spread,
    class_changes,
    mcnemar_p,
    paired_difference,
    speed_up,
    standard_error_pct,
    superclass_error_pct,
)
from stages.lib.schema import Recipe

EXTREMES = 3
SUPERCLASSES = Path(__file__).with_name("superclasses.yaml")


@dataclass(frozen=True)
class VariantRow:
    """One model in one precision, compared with `base` in fp32.

    Attributes:
        noise: Two standard errors of the top-1 error, in percentage points.
        change: Of the top-1 error; None for `base` itself.
        p_value: That of McNemar's test against `base`; None for `base` itself.
        superclass_error_pct: None where the data have no superclasses.
        gained, lost: The classes whose error fell and rose most against `base`, at most `EXTREMES` each.
        times_smaller: How many times its file fits into that of `base`.
        times_as_fast: By round.
    """

    name: str
    model: Model
    precision: Precision
    accuracy: Accuracy
    cost: Cost
    noise: float
    change: Difference | None
    p_value: float | None
    superclass_error_pct: float | None
    gained: list[ClassChange]
    lost: list[ClassChange]
    times_smaller: float
    times_as_fast: Spread

    @property
    def is_as_accurate(self) -> bool:
        """Whether its error is not above that of `base` beyond noise."""
        return self.change is None or self.change.points <= self.change.noise


@dataclass(frozen=True)
class ModelRow:
    """How one model was made.

    Attributes:
        channels: Output channels of its convolutions and of those of `base`; None where the stage does not tell.
        num_factorized: Layers replaced by two thinner ones.
        parameters_left, macs_left: Shares of those of `base`.
        zeros: Share of its parameters.
        start_error_pct: Validation error before the last training, in its precision; None from random weights.
        epochs: Of the last training.
    """

    model: Model
    channels: tuple[int, int] | None
    num_factorized: int
    parameters_left: float
    macs_left: float
    zeros: float
    start_error_pct: float | None
    epochs: float
    recipe: Recipe
    training: Training
    quantization: Quantization


@dataclass(frozen=True)
class AdoptedRow:
    """A classifier from elsewhere, and what int8 costs and gains."""

    name: str
    facts: Adopted
    fp32: Accuracy
    int8: Accuracy
    change: Difference
    fp32_cost: AdoptedCost
    int8_cost: AdoptedCost
    times_as_fast: Spread


def variant_rows(results: Results) -> list[VariantRow]:
    """A row for every variant, `base` first."""
    base, reference, rows = results.profile.variants["base"], results.accuracy["base"], []
    superclasses = yaml.safe_load(SUPERCLASSES.read_text(encoding="utf-8"))
    has_superclasses = set().union(*superclasses.values()) == set(reference.classes)
    for model in MODELS.values():
        for precision in PRECISIONS:
            name = variant_name(model.name, precision)
            accuracy, cost = results.accuracy[name], results.profile.variants[name]
            changes = class_changes(accuracy, reference)
            rows.append(
                VariantRow(
                    name=name,
                    model=model,
                    precision=precision,
                    accuracy=accuracy,
                    cost=cost,
                    noise=2 * standard_error_pct(accuracy),
                    change=None if name == "base" else paired_difference(accuracy, reference),
                    p_value=None if name == "base" else mcnemar_p(accuracy, reference),
                    superclass_error_pct=superclass_error_pct(accuracy, superclasses) if has_superclasses else None,
                    gained=[change for change in changes[:EXTREMES] if change.points < 0],
                    lost=[change for change in changes[: -EXTREMES - 1 : -1] if change.points > 0],
                    times_smaller=base.file_bytes / cost.file_bytes,
                    times_as_fast=speed_up(cost, base),
                )
            )
    return rows


def model_rows(results: Results) -> list[ModelRow]:
    """A row for every model, `base` first."""
    base, rows = results.profile.variants["base"], []
    for name, model in MODELS.items():
        cost, curve, shape = results.profile.variants[name], results.curves[name], results.compression.get(name)
        rows.append(
            ModelRow(
                model=model,
                channels=(sum(shape.widths), sum(shape.base_widths)) if shape else None,
                num_factorized=sum(map(bool, shape.ranks)) if shape else 0,
                parameters_left=cost.num_parameters / base.num_parameters,
                macs_left=cost.macs / base.macs,
                zeros=1 - cost.num_nonzero_parameters / cost.num_parameters,
                start_error_pct=curve[0].val_error_pct if curve[0].epoch == 0 else None,
                epochs=curve[-1].epoch,
                recipe=getattr(results.params, model.recipe),
                training=results.training[name],
                quantization=results.quantization[name],
            )
        )
    return rows


def adopted_rows(results: Results) -> list[AdoptedRow]:
    """A row for every classifier from elsewhere."""
    rows = []
    for name, facts in results.adopted.items():
        int8 = variant_name(name, "int8")
        accuracy, coarse = results.adopted_accuracy[name], results.adopted_accuracy[int8]
        cost, cheap = results.profile.adopted[name], results.profile.adopted[int8]
        change, faster = paired_difference(coarse, accuracy), speed_up(cheap, cost)
        rows.append(AdoptedRow(name, facts, accuracy, coarse, change, cost, cheap, faster))
    return rows


def original_rows(
    results: Results, original: Mapping[str, Mapping[str, float]]
) -> dict[str, list[tuple[float | None, float | None]]]:
    """For each quantity, the original's number and ours in PyTorch, by model; None where it was not measured."""
    ours: dict[str, dict[str, float | None]] = {}
    for model in original:
        accuracy, cost, eager = results.accuracy[model], results.profile.variants[model], results.profile.eager[model]
        cuda = results.cuda.get(model)
        ours[model] = {
            "parameters_m": cost.num_parameters / 1e6,
            "checkpoint_mb": eager.checkpoint_bytes / 1e6,
            "top1_error_pct": accuracy.top1_error_pct,
            "top5_error_pct": accuracy.top5_error_pct,
            "memory_mb": eager.memory_mb,
            "latency_ms": eager.latency_eager_ms,
            "latency_cuda_ms": cuda.latency_cuda_ms if cuda else None,
            "profiler_cpu_ms": eager.profiler_cpu_ms,
            "profiler_cuda_ms": cuda.profiler_cuda_ms if cuda else None,
        }
    return {key: [(original[model].get(key), ours[model][key]) for model in original] for key in ours["base"]}


def recommended(rows: Sequence[VariantRow]) -> dict[str, VariantRow]:
    """The variant to ship for each wish; of several as small or as fast, the most accurate."""
    accurate = [row for row in rows if row.is_as_accurate]
    return {
        "smallest_accurate": _smallest(accurate),
        "fastest_accurate": _fastest(accurate),
        "most_accurate": _most_accurate(rows),
        "smallest": _smallest(rows),
        "fastest": _fastest(rows),
    }


def metrics(rows: Sequence[VariantRow]) -> dict[str, dict[str, float]]:
    """The content of `metrics.json`: the same keys for every variant, which are the same on every machine."""
    errors = ("top1_error_pct", "top5_error_pct", "calibration_error_pct")
    costs = ("num_parameters", "num_nonzero_parameters", "macs", "file_bytes")
    return {
        row.name: {key: round(getattr(row.accuracy, key), 2) for key in errors}
        | {key: getattr(row.cost, key) for key in costs}
        for row in rows
    }


def latencies(rows: Sequence[VariantRow]) -> dict[str, dict[str, float]]:
    """The content of `reports/latency.json`: what differs by machine, rounded so that a diff shows little noise."""
    costs = ("latency_cpu_ms", "images_per_s_1_thread", "images_per_s", "memory_mb")
    return {row.name: {key: float(f"{getattr(row.cost, key):.2g}") for key in costs} for row in rows}


def tradeoffs(rows: Sequence[VariantRow]) -> str:
    """Accuracy and cost of every variant as CSV, for `dvc plots`."""
    columns = {
        "variant": [row.name for row in rows],
        "top1_error_pct": [round(row.accuracy.top1_error_pct, 2) for row in rows],
        "noise_pct": [round(row.noise, 2) for row in rows],
        "file_mb": [row.cost.file_bytes / 1e6 for row in rows],
        "macs_m": [row.cost.macs / 1e6 for row in rows],
        "latency_cpu_ms": [float(f"{row.cost.latency_cpu_ms:.3g}") for row in rows],
    }
    return str(pd.DataFrame(columns).to_csv(index=False))


def _smallest(rows: Sequence[VariantRow]) -> VariantRow:
    least = min(row.cost.file_bytes for row in rows)
    return _most_accurate([row for row in rows if row.cost.file_bytes <= (1 + SAME_SIZE) * least])


def _fastest(rows: Sequence[VariantRow]) -> VariantRow:
    most = max(row.times_as_fast.median for row in rows)
    return _most_accurate([row for row in rows if (1 + SAME_LATENCY) * row.times_as_fast.median >= most])


def _most_accurate(rows: Sequence[VariantRow]) -> VariantRow:
    return min(rows, key=lambda row: row.accuracy.top1_error_pct)
