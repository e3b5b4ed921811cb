"""Make the report from what the other stages measured: `python -m stages.report`."""

import argparse
import csv
import json
from pathlib import Path
from typing import TypeVar, get_args

from pydantic import ValidationError

from stages.lib.artifacts import replacing
from stages.lib.params import Params, Precision, load_params, variant_name
from stages.lib.report.figures import draw_channels, draw_curves, draw_tradeoffs
from stages.lib.report.reporting import render_report
from stages.lib.report.results import (
    Accuracy,
    Compression,
    Epoch,
    Measured,
    Profile,
    Quantization,
    Results,
    Training,
    Variant,
    metrics,
)
from stages.lib.stage import one_line_errors

File = TypeVar("File", bound=Measured)


def read(path: Path, schema: type[File]) -> File:
    """Read what another stage wrote, as `schema`."""
    try:
        return schema.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise _unexpected(path, error) from None


def read_curve(path: Path) -> list[Epoch]:
    """Read a training curve; an empty cell means not measured."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [Epoch.model_validate({k: v or None for k, v in row.items()}) for row in csv.DictReader(file)]
    except ValidationError as error:
        raise _unexpected(path, error) from None


def read_results(params: Params) -> Results:
    """Read everything that the report is made from."""
    models = sorted(params.models.reported, key=lambda model: model != "base")
    profile = read(Path("artifacts/profile.json"), Profile)
    variants = []
    for model in models:
        for precision in get_args(Precision):
            name = variant_name(model, precision)
            accuracy = read(Path(f"artifacts/evaluation/{model}-{precision}.json"), Accuracy)
            variants.append(Variant(name, model, precision, accuracy, profile.variants[name]))
    return Results(
        params=params,
        variants=tuple(variants),
        profile=profile,
        curves={model: read_curve(Path(f"reports/curves/{model}.csv")) for model in models},
        training={model: read(Path(f"artifacts/training/{model}.json"), Training) for model in models},
        quantization={model: read(Path(f"artifacts/quantization/{model}.json"), Quantization) for model in models},
        compression={
            model: read(Path(f"artifacts/compression/{model}.json"), Compression)
            for model in models
            if model in params.models.finetuned
        },
    )


def main() -> None:
    """Read what params.yaml names under artifacts/ and reports/curves/, write metrics, report and figures."""
    results = read_results(load_params())
    # Everything is made before anything is written, so that a failure leaves the old report whole.
    outputs = {
        "reports/figures/curves.svg": draw_curves(results.curves),
        "reports/figures/tradeoffs.svg": draw_tradeoffs(results.variants),
        "reports/report.md": render_report(results),
        "metrics.json": json.dumps(metrics(results.variants), indent=2) + "\n",
    }
    if {"structured", "lowrank"} & set(results.compression):
        outputs["reports/figures/channels.svg"] = draw_channels(results.compression)
    for name, text in outputs.items():
        with replacing(Path(name)) as path:
            path.write_text(text, encoding="utf-8")


def _unexpected(path: Path, error: ValidationError) -> ValueError:
    """The first problem that pydantic found, in one line."""
    details = error.errors()[0]
    key = ".".join(map(str, details["loc"]))
    return ValueError(f"{path} is not as expected: {key}: {details['msg']}; run dvc repro to write it anew")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("report"):
        main()
