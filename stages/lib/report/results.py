"""What the stages measured, read back for the report: schemas of their files, and `metrics.json` made from them.

Nothing here may import torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from stages.lib.params import Params, Precision


class Measured(BaseModel):
    """Part of a file that another stage wrote; keys that the report doesn't use are left aside."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Accuracy(Measured):
    """`artifacts/evaluation/<variant>.json`: errors on the test images."""

    top1_error_pct: float = Field(ge=0, le=100)
    top5_error_pct: float = Field(ge=0, le=100)
    num_images: int = Field(ge=1)
    missed_hex: str = Field(pattern="^[0-9a-f]+$", description="A bit for each image, 1 where top-1 is wrong, in bytes")

    @property
    def missed(self) -> int:
        """The bits of `missed_hex` as a number."""
        return int(self.missed_hex, 16)


class Cost(Measured):
    """What one ONNX model costs in ONNX Runtime: time and memory of one image at a time."""

    num_parameters: int
    num_nonzero_parameters: int
    macs: int
    onnx_bytes: int = Field(gt=0, description="The plain ONNX file")
    file_bytes: int = Field(gt=0, description="What ships: the packed file of a sparse model, the ONNX file otherwise")
    latency_cpu_ms: float = Field(gt=0)
    latency_cpu_p5_ms: float
    latency_cpu_p95_ms: float
    latency_rounds_ms: list[float] = Field(min_length=1, description="The median of each round")
    memory_mb: float


class EagerCost(Measured):
    """What one fp32 model costs in PyTorch, as the original report ran it; None where there was no GPU."""

    checkpoint_bytes: int
    latency_eager_ms: float
    latency_rounds_ms: list[float] = Field(min_length=1, description="The median of each round")
    memory_mb: float
    profiler_cpu_ms: float
    latency_cuda_ms: float | None
    profiler_cuda_ms: float | None


class Machine(Measured):
    """What the latencies depend on."""

    cpu: str
    physical_cores: int | None
    threads: int
    avx2: bool
    avx512f: bool
    avx512_vnni: bool
    avx_vnni: bool
    ram_gb: float
    gpu: str | None
    os: str
    python: str
    torch: str
    onnxruntime: str


class Profile(Measured):
    """`artifacts/profile.json`: costs by variant and, in PyTorch, by model."""

    machine: Machine
    rounds: int
    calls_per_round: int
    variants: dict[str, Cost]
    eager: dict[str, EagerCost]


class Training(Measured):
    """`artifacts/training/<model>.json`: what training or fine-tuning took."""

    seconds: float
    device: str
    precision: str
    num_train_images: int
    num_val_images: int


class Candidate(Measured):
    """A calibration of the int8 model that was tried."""

    method: str
    images: int
    val_error_pct: float


class Quantization(Measured):
    """`artifacts/quantization/<model>.json`: the calibration that was chosen on the validation images, and how."""

    calibration_method: str
    calibration_images: int
    bias_correction: bool
    val_error_pct: float
    fp32_val_error_pct: float
    candidates: list[Candidate] = Field(min_length=1)
    packed_bytes: dict[Precision, int] = Field(description="What the ONNX files would have, packed as sparse ones are")


class Compression(Measured):
    """`artifacts/compression/<model>.json`: the shape of a pruned or factorized model beside that of the base."""

    widths: list[int] = Field(description="Output channels of each convolution, in forward order")
    base_widths: list[int]
    ranks: list[int] = Field(description="Of each convolution and the linear layer, 0 for whole; empty for all whole")


class Epoch(Measured):
    """A row of `reports/curves/<model>.csv`; epoch 0 is the model before its first step."""

    epoch: float
    train_loss: float | None
    val_error_pct: float


@dataclass(frozen=True)
class Variant:
    """A row of the report: one model in one precision."""

    name: str
    model: str
    precision: Precision
    accuracy: Accuracy
    cost: Cost


@dataclass(frozen=True)
class Results:
    """Everything that the report is made from.

    Attributes:
        variants: `base` first, each model's int8 variant after its fp32 one.
        curves: Epochs of the training of `base` and of the fine-tuning or distillation of each other model.
        training: What these took.
        quantization: How the int8 variant of each model was calibrated.
        compression: Widths and ranks of each pruned or factorized model.
    """

    params: Params
    variants: tuple[Variant, ...]
    profile: Profile
    curves: dict[str, list[Epoch]]
    training: dict[str, Training]
    quantization: dict[str, Quantization]
    compression: dict[str, Compression]

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the report, `base` first."""
        return tuple(dict.fromkeys(variant.model for variant in self.variants))

    def variant(self, name: str) -> Variant:
        """The variant of this name."""
        return next(variant for variant in self.variants if variant.name == name)

    def val_error_pct(self, model: str) -> float:
        """Validation error of the exported fp32 model; a curve has it as training computed it, perhaps in bf16."""
        return self.quantization[model].fp32_val_error_pct


def two_digits(value: float) -> float:
    """Round to two significant digits: what a repeated timing on the same machine still agrees on."""
    return float(f"{value:.2g}")


def metrics(variants: Sequence[Variant]) -> dict[str, dict[str, float]]:
    """The content of `metrics.json`: the same keys for every variant, rounded so that a diff shows no noise."""
    return {
        variant.name: {
            "top1_error_pct": round(variant.accuracy.top1_error_pct, 2),
            "top5_error_pct": round(variant.accuracy.top5_error_pct, 2),
            "num_parameters": variant.cost.num_parameters,
            "num_nonzero_parameters": variant.cost.num_nonzero_parameters,
            "macs": variant.cost.macs,
            "file_bytes": variant.cost.file_bytes,
            "latency_cpu_ms": two_digits(variant.cost.latency_cpu_ms),
            "memory_mb": two_digits(variant.cost.memory_mb),
        }
        for variant in variants
    }
