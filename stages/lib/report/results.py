"""What the stages measured, read back for the report: a schema for each of their files.

Nothing here may import torch.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from stages.lib.artifacts import (
    MACHINES,
    adopted_evaluation_path,
    adoption_path,
    compression_path,
    cuda_profile_path,
    curve_path,
    evaluation_path,
    profile_path,
    quantization_path,
    read_json,
    training_path,
)
from stages.lib.models import MODELS, PRECISIONS, variant_name
from stages.lib.params import Params

REMEDY = "run dvc repro to write it anew"
Count = Annotated[int, Field(ge=1, le=10**15)]
Percentage = Annotated[float, Field(ge=0, le=100)]
Milliseconds = Annotated[float, Field(ge=1e-6, le=1e12)]  # ratios of them stay finite
NonNegative = Annotated[float, Field(ge=0, le=1e12)]
Positive = Annotated[float, Field(gt=0, le=1e12)]


def _indices(text: object) -> np.ndarray:
    """Class numbers from text, which takes less room in JSON than a list, a number a line."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,6}( [0-9]{1,6})*", text):
        raise ValueError("must be class numbers with spaces between")
    return np.array(text.split(), dtype=np.int64)


Indices = Annotated[np.ndarray, BeforeValidator(_indices)]


class Measured(BaseModel):
    """Part of a file that another stage wrote; keys that the report does not use are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


File = TypeVar("File", bound=Measured)


class Accuracy(Measured):
    """`artifacts/evaluation/<variant>.json`: errors on the test images."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    top1_error_pct: Percentage
    top5_error_pct: Percentage
    calibration_error_pct: Percentage
    num_images: Count
    classes: list[str] = Field(min_length=2)
    labels: Indices = Field(description="Of the images, int64 (N,)")
    predictions: Indices
    file_sha256: str

    @cached_property
    def missed(self) -> np.ndarray:
        """Whether the prediction is wrong, bool (N,)."""
        wrong: np.ndarray = self.predictions != self.labels
        return wrong

    @model_validator(mode="after")
    def _numbers_agree(self) -> Self:
        for name in ("labels", "predictions"):
            values = getattr(self, name)
            if len(values) != self.num_images or values.max() >= len(self.classes):
                raise ValueError(f"{name} must be a class for each of num_images ({self.num_images:,})")
        if abs(100 * self.missed.mean() - self.top1_error_pct) > 0.01:
            raise ValueError(f"predictions must agree with top1_error_pct ({self.top1_error_pct:.2f})")
        return self


class AdoptedCost(Measured):
    """What one ONNX model costs in ONNX Runtime: time and memory of one image at a time."""

    file_bytes: Count = Field(description="What ships: the packed file of a packed model, the ONNX file otherwise")
    latency_cpu_ms: Milliseconds
    latency_cpu_p5_ms: Milliseconds
    latency_cpu_p95_ms: Milliseconds
    latency_rounds_ms: list[Milliseconds] = Field(description="The median of each round")
    memory_mb: NonNegative


class Cost(AdoptedCost):
    """What one of our models costs besides."""

    num_parameters: Count
    num_nonzero_parameters: Count
    macs: Count
    images_per_s_1_thread: Positive = Field(description="In batches, with one thread")
    images_per_s: Positive = Field(description="In batches, with as many threads as latency is measured with")


class EagerCost(Measured):
    """What one fp32 model costs in PyTorch eager mode, as in the original report."""

    checkpoint_bytes: Count
    checkpoint_sha256: str
    latency_eager_ms: Milliseconds
    latency_rounds_ms: list[Milliseconds] = Field(description="The median of each round")
    memory_mb: NonNegative
    profiler_cpu_ms: NonNegative


class CudaCost(Measured):
    """What one fp32 model costs in PyTorch on a GPU."""

    checkpoint_sha256: str
    gpu: str
    latency_cuda_ms: NonNegative
    profiler_cuda_ms: NonNegative


class CudaProfile(Measured):
    """`reports/profile-cuda.json`, tracked by git, maybe of other models than those at hand."""

    models: dict[str, CudaCost]


class MachineCost(Measured):
    """The latency of one variant on some machine."""

    file_sha256: str
    latency_cpu_ms: Milliseconds


class OtherMachine(Measured):
    """`reports/machines/NAME.json`, tracked by git, maybe of other models than those at hand."""

    machine: str
    variants: dict[str, MachineCost]


class Machine(Measured):
    """What the latencies depend on."""

    cpu: str
    threads: Count
    avx2: bool
    avx512f: bool
    avx512_vnni: bool
    avx_vnni: bool
    os: str
    python: str
    torch: str
    onnxruntime: str


class Profile(Measured):
    """`artifacts/profile.json`: costs by variant and, in PyTorch, by model."""

    machine: Machine
    rounds: Count
    calls_per_round: Count
    batch_size: Count
    variants: dict[str, Cost]
    adopted: dict[str, AdoptedCost]
    eager: dict[str, EagerCost]

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        names = {variant_name(model, precision) for model, precision in product(MODELS, PRECISIONS)}
        if missing := (names - set(self.variants)) | (set(MODELS) - set(self.eager)):
            raise ValueError(f"must have the costs of {min(missing)}")
        costs: list[Cost | EagerCost] = [*self.variants.values(), *self.eager.values()]
        for cost in costs:
            if len(cost.latency_rounds_ms) != self.rounds:
                raise ValueError(f"latency_rounds_ms must have rounds ({self.rounds}) entries")
        return self


class Training(Measured):
    """`artifacts/training/<model>.json`: what training or fine-tuning took."""

    seconds: NonNegative
    device: str
    precision: str
    num_train_images: Count
    num_val_images: Count


class PackedBytes(Measured):
    """What the ONNX files of a model would take, packed as sparse ones are."""

    fp32: Count
    int8: Count


class LayerError(Measured):
    """What int8 costs in one layer, as a share of its output."""

    name: str
    error_pct: NonNegative


class Quantization(Measured):
    """`artifacts/quantization/<model>.json`: the calibration chosen on the validation images."""

    calibration_method: str
    calibration_images: Count
    bias_correction: bool
    val_error_pct: Percentage
    fp32_val_error_pct: Percentage = Field(description="Of the exported file; a curve may be in bf16")
    candidates: list[Any] = Field(min_length=1)
    layers: list[LayerError]
    float_layers: list[str]


class BaseQuantization(Quantization):
    """That of `base`, with which sparse models, which ship packed, are compared."""

    packed_bytes: PackedBytes


class Adopted(Quantization):
    """A classifier from elsewhere: what it is, and how it was quantized."""

    num_parameters: Count
    num_nonzero_parameters: Count
    macs: Count


class Adoption(Measured):
    """`artifacts/adopted/facts.json`."""

    models: dict[str, Adopted]


class AdoptedEvaluation(Measured):
    """`artifacts/evaluation/adopted.json`."""

    variants: dict[str, Accuracy]


class Compression(Measured):
    """`artifacts/compression/<model>.json`: the shape of a pruned or factorized model beside that of the base."""

    widths: list[Count] = Field(min_length=1, description="Output channels of each convolution, in forward order")
    base_widths: list[Count]
    ranks: list[Annotated[int, Field(ge=0, le=10**15)]] = Field(
        description="Of each convolution and the linear layer, 0 for whole"
    )

    @model_validator(mode="after")
    def _lists_have_an_entry_for_each_layer(self) -> Self:
        if len(self.widths) != len(self.base_widths) or len(self.ranks) not in (0, len(self.widths) + 1):
            raise ValueError("widths, base_widths and ranks must have an entry for each layer")
        return self


class Epoch(Measured):
    """A row of `reports/curves/<model>.csv`; epoch 0 is the model before its first step."""

    epoch: NonNegative
    train_loss: NonNegative | None
    val_error_pct: Percentage
    image_size: Count | None = None
    val_error_at_size_pct: Percentage | None = None


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
        path = evaluation_path(model, precision)
        accuracy[variant_name(model, precision)] = read = read_file(path, Accuracy)
        if read.num_images != (expected := accuracy["base"].num_images):
            raise ValueError(f"{path} must have num_images {expected}, got {read.num_images}; {REMEDY}")
    profile = read_file(profile_path(), Profile)
    cuda = read_file(cuda_profile_path(), CudaProfile).models
    adopted = read_file(adoption_path(), Adoption).models
    if adopted.keys() != params.external.keys():
        raise ValueError(f"{adoption_path()} must have the models of external; {REMEDY}")
    digests = {name: cost.checkpoint_sha256 for name, cost in profile.eager.items()}
    return Results(
        params=params,
        accuracy=accuracy,
        profile=profile,
        curves={model: read_curve(curve_path(model)) for model in MODELS},
        training={model: read_file(training_path(model), Training) for model in MODELS},
        quantization={
            model: read_file(quantization_path(model), BaseQuantization if model == "base" else Quantization)
            for model in MODELS
        },
        compression={
            name: read_file(compression_path(name), Compression) for name, model in MODELS.items() if model.finetuned
        },
        cuda={name: cost for name, cost in cuda.items() if cost.checkpoint_sha256 == digests.get(name)},
        adopted=adopted,
        adopted_accuracy=read_file(adopted_evaluation_path(), AdoptedEvaluation).variants,
        machines=_read_machines(accuracy),
    )


def _read_machines(accuracy: Mapping[str, Accuracy]) -> dict[str, dict[str, float]]:
    """The latencies on other machines of the files whose accuracy was measured."""
    digests = {name: each.file_sha256 for name, each in accuracy.items()}
    machines = {}
    for path in sorted(MACHINES.glob("*.json")):
        other = read_file(path, OtherMachine)
        same = {
            name: cost.latency_cpu_ms for name, cost in other.variants.items() if cost.file_sha256 == digests.get(name)
        }
        if same:
            machines[other.machine] = same
    return machines


def read_file(path: Path, schema: type[File]) -> File:
    """Read a JSON file that another stage wrote."""
    try:
        return schema.model_validate(read_json(path))
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
        raise ValueError(f"{path} must be text in UTF-8, got other bytes; save it anew") from None


def _unexpected(path: Path, error: ValidationError) -> ValueError:
    """The first problem that pydantic found, in one line."""
    details = error.errors()[0]
    place = ".".join(map(str, details["loc"])).encode("unicode_escape").decode()  # a key may be any text
    problem = details["msg"].removeprefix("Value error, ")
    return ValueError(f"{path} is not as expected: {place}{': ' if place else ''}{problem}; {REMEDY}")
