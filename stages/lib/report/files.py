"""A schema for each file that another stage leaves for the report."""

import re
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stages.lib.models import MODELS, PRECISIONS, variant_name

REMEDY = "run dvc repro to write it again"
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
    layers_us: dict[str, NonNegative] = Field(description="Time of each layer for one image, in microseconds")


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
