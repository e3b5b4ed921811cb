"""What the stages measured, read back for the report: everything together.

Nothing here may import torch.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from stages.lib import artifacts
from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.report.files import (
    REMEDY,
    Accuracy,
    Adopted,
    AdoptedEvaluation,
    Adoption,
    BaseQuantization,
    Compression,
    CudaCost,
    CudaProfile,
    Epoch,
    Measured,
    OtherMachine,
    Profile,
    Quantization,
    Training,
)
from stages.lib.schema import Params

File = TypeVar("File", bound=Measured)


@dataclass(frozen=True)
class Results:
    """Everything that the report is made from.

    Attributes:
        accuracy: Of each variant, `base` first, each model's int8 variant after its fp32 one.
        curves: Epochs of the last training of each model.
        training: What these took.
        quantization: How the int8 variant of each model was calibrated.
        compression: Widths and ranks of each fine-tuned model.
        cuda: Costs on a GPU of those models that were measured there as they are now.
        adopted: Classifiers from elsewhere, by name.
        adopted_accuracy: Of these, by variant.
        machines: Latency in milliseconds on other machines, by name and variant, of the files as they are now.
    """

    params: Params
    accuracy: dict[str, Accuracy]
    profile: Profile
    curves: dict[str, list[Epoch]]
    training: dict[str, Training]
    quantization: dict[str, Quantization]
    compression: dict[str, Compression]
    cuda: dict[str, CudaCost]
    adopted: dict[str, Adopted]
    adopted_accuracy: dict[str, Accuracy]
    machines: dict[str, dict[str, float]]


def read_results(params: Params) -> Results:
    """Read everything that the report is made from.

    Raises:
        ValueError: If a file is empty, truncated or wrong; the message names it and the remedy.
        OSError: If a file is missing.
    """
    accuracy: dict[str, Accuracy] = {}
    for model, precision in product(MODELS, PRECISIONS):
        path = artifacts.evaluation_path(model, precision)
        accuracy[variant_name(model, precision)] = read = read_file(path, Accuracy)
        if not np.array_equal(read.labels, accuracy["base"].labels):
            raise ValueError(f"{path} must be of the test images of base, got others; {REMEDY}")
    profile = read_file(artifacts.profile_path(), Profile)
    cuda = read_file(artifacts.cuda_profile_path(), CudaProfile).models
    adopted = read_file(artifacts.adoption_path(), Adoption).models
    tested = read_file(artifacts.adopted_evaluation_path(), AdoptedEvaluation).variants
    variants = {variant_name(name, precision) for name in params.external for precision in PRECISIONS}
    for path, names, expected in (
        (artifacts.adoption_path(), adopted, set(params.external)),
        (artifacts.adopted_evaluation_path(), tested, variants),
        (artifacts.profile_path(), profile.adopted, variants),
    ):
        if names.keys() != expected:
            raise ValueError(f"{path} must have the models of external; {REMEDY}")
    digests = {name: cost.checkpoint_sha256 for name, cost in profile.eager.items()}
    return Results(
        params=params,
        accuracy=accuracy,
        profile=profile,
        curves={model: read_curve(artifacts.curve_path(model)) for model in MODELS},
        training={model: read_file(artifacts.training_path(model), Training) for model in MODELS},
        quantization={
            model: read_file(artifacts.quantization_path(model), BaseQuantization if model == "base" else Quantization)
            for model in MODELS
        },
        compression={
            name: read_file(artifacts.compression_path(name), Compression)
            for name, model in MODELS.items()
            if model.finetuned
        },
        cuda={name: cost for name, cost in cuda.items() if cost.checkpoint_sha256 == digests.get(name)},
        adopted=adopted,
        adopted_accuracy=tested,
        machines=_read_machines(accuracy),
    )


def _read_machines(accuracy: Mapping[str, Accuracy]) -> dict[str, dict[str, float]]:
    """The latencies on other machines of the files whose accuracy was measured."""
    digests = {name: each.file_sha256 for name, each in accuracy.items()}
    machines: dict[str, dict[str, float]] = {}
    for path in sorted(artifacts.MACHINES.glob("*.json")):
        other = read_file(path, OtherMachine)
        same = {
            name: cost.latency_cpu_ms for name, cost in other.variants.items() if cost.file_sha256 == digests.get(name)
        }
        if same:
            name = other.machine if other.machine not in machines else f"{other.machine} ({path.stem})"
            machines[name] = same
    return machines


def read_file(path: Path, schema: type[File]) -> File:
    """Read a JSON file that another stage wrote."""
    try:
        return schema.model_validate(artifacts.read_json(path))
    except ValidationError as error:
        raise _unexpected(path, error) from None


def read_curve(path: Path) -> list[Epoch]:
    """Read a training curve; an empty cell means not measured."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("each row must have as many cells as the header")
        epochs = [Epoch.model_validate({key: cell or None for key, cell in row.items()}) for row in rows]
        if not epochs:
            raise ValueError("must have a row for each epoch, got none")
        if [row.epoch for row in epochs] != sorted({row.epoch for row in epochs}):
            raise ValueError("epoch must rise from row to row")
    except ValidationError as error:
        raise _unexpected(path, error) from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not as expected: {error}; {REMEDY}") from None
    return epochs


def read_findings(path: Path) -> str:
    """Read what a person concluded from a run; nothing where there is no such file."""
    try:
        return path.read_text(encoding="utf-8-sig") if path.exists() else ""
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be text in UTF-8, got other bytes; save it again") from None


def _unexpected(path: Path, error: ValidationError) -> ValueError:
    """The first problem that pydantic found, in one line."""
    details = error.errors()[0]
    place = ".".join(map(str, details["loc"])).encode("unicode_escape").decode()  # a key may be any text
    problem = details["msg"].removeprefix("Value error, ")
    return ValueError(f"{path} is not as expected: {place}{': ' if place else ''}{problem}; {REMEDY}")
