"""Schema of `params.yaml` and of the presets: types, ranges, and no unknown keys.

Every stage calls `load_params` before it imports torch, so a mistake anywhere in the file stops the first stage and
not the third hour. Nothing here may import torch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

PARAMS_FILE = Path("params.yaml")

Count = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]  # [0, 1)
PrunedModel = Literal["structured", "unstructured"]
FinetunedModel = Literal[PrunedModel, "lowrank"]
SparseModel = Literal["unstructured"]
Model = Literal["base", FinetunedModel, "distilled"]
Precision = Literal["fp32", "int8"]


class Section(BaseModel):
    """A frozen group of parameters; `-S train.lr=1e-5` arrives as text, so numbers in text are accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Which images, and how many."""

    name: Literal["cifar100", "digits", "folder"]
    folder: Path | None = Field(description="Folder with train/ and test/, for name: folder")
    limit_per_class: Count | None = Field(description="Keep this many images of each class, for trials")
    val_per_class: Count = Field(description="Training images of each class held out for validation")
    seed: NonNegativeInt = Field(description="Of the validation split")

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.name == "folder" and self.folder is None:
            raise ValueError("data.folder must be a path when data.name is folder, got null; set data.folder")
        if self.limit_per_class is not None and self.val_per_class >= self.limit_per_class:
            raise ValueError(
                f"data.val_per_class must be below data.limit_per_class ({self.limit_per_class}), got "
                f"{self.val_per_class}; change one of them"
            )
        return self


class Architecture(Section):
    """The GoogLeNet that is trained."""

    width: PositiveFloat = Field(le=4, description="Multiplies every channel count")
    stem_pool: bool = Field(description="Pool once after the stem: a third of the MACs, somewhat less accurate")
    dropout: Fraction


class Augmentation(Section):
    """What happens to a batch of training images."""

    flip: bool
    crop_padding: Annotated[int, Field(ge=0, le=16)] = Field(description="Pixels, for a 32 x 32 image")
    cutout: Annotated[int, Field(ge=0, le=32)] = Field(description="Side of the grey square in pixels, 0 for none")
    trivial_augment: bool = Field(description="One random colour or geometric operation for each image")
    mixup: NonNegativeFloat = Field(description="Alpha of Mixup's beta distribution, 0 for none")
    cutmix: NonNegativeFloat = Field(description="Alpha of CutMix's beta distribution, 0 for none")
    mix_off_epochs: NonNegativeFloat = Field(description="Last epochs without Mixup and CutMix")


class Recipe(Section):
    """How a model is trained or fine-tuned: SGD with Nesterov momentum, or Muon; the last step's EMA is kept."""

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"] = Field(description="auto: bf16 where the device computes in it")
    deterministic: bool = Field(description="On CUDA: the same bits in every run, somewhat slower; a CPU always is")
    cuda_graph: bool = Field(description="Record a step's kernels once and launch them together; CUDA, one process")
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    epochs: PositiveFloat = Field(description="A fraction, too: 0.4 of an epoch is 40 % of its batches")
    batch_size: Annotated[int, Field(ge=2, description="Over all processes, if torchrun started several")]
    lr: PositiveFloat = Field(description="Peak learning rate")
    muon_lr: PositiveFloat | None = Field(
        description="Of Muon, for the weights of convolutions, relative to their norm; null: SGD for all"
    )
    schedule: Literal["cosine", "one_cycle"] = Field(description="After the linear warm-up: cosine or linear to 0")
    warmup_epochs: NonNegativeFloat
    momentum: Fraction
    weight_decay: NonNegativeFloat = Field(description="Of SGD, not on biases and normalization")
    label_smoothing: Fraction
    ema_decay: Fraction = Field(description="Reached gradually; 0 keeps the raw weights")
    image_sizes: dict[Annotated[int, Field(ge=8, le=32)], PositiveFloat] = Field(
        min_length=1, description="Progressive sizes: side in pixels to its share of the steps, in order"
    )
    augmentation: Augmentation

    @model_validator(mode="after")
    def _warmup_ends_before_training(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs ({self.epochs:g}), got {self.warmup_epochs:g}")
        return self


class Distillation(Section):
    """How a student learns from a teacher."""

    loss: Literal["none", "kd", "standardized_kd"] = Field(
        description="none: from the labels alone. For 2 classes kd: standardized, two logits tell only which is larger"
    )
    temperature: Annotated[float, Field(gt=0, le=1000)]
    weight: NonNegativeFloat = Field(description="Of the teacher's part of the loss")
    label_weight: NonNegativeFloat = Field(description="Of the labels' part of the loss")

    @model_validator(mode="after")
    def _a_teacher_has_a_say(self) -> Self:
        if self.loss != "none" and not self.weight:
            raise ValueError(
                f"weight must be above 0 where loss is {self.loss}, got 0; for the labels alone set loss: none"
            )
        return self


class StudentRecipe(Recipe):
    """How a model is trained that has the base as its teacher."""

    distillation: Distillation


class Student(StudentRecipe):
    """A narrower network that learns from the base, and how it is trained."""

    width: Annotated[float, Field(gt=0, le=1)] = Field(description="Multiplies the channel counts of the base")
    round_to: Count | None = Field(description="Channel counts become the nearest multiple of this")
    stem_pool: bool = Field(description="false pays in MACs, not in bytes")
    start: Literal["scratch", "base"] = Field(description="Random weights, or the base's channels of largest norm")
    reconstruction_images: NonNegativeInt = Field(description="start base: as prune.reconstruction_images")


class Models(Section):
    """Which models are made; the matrices of dvc.yaml run over these lists.

    The stages factorize and distill have none: they run even if nothing here names their models.
    """

    pruned: list[PrunedModel] = Field(description="Made from the base by the stage prune")
    finetuned: list[FinetunedModel] = Field(description="Fine-tuned after it, or after the stage factorize")
    reported: list[Model] = Field(min_length=1, description="Quantized, evaluated, profiled: rows of the report")
    packed: list[SparseModel] = Field(description="Those whose files are packed for shipping")

    @model_validator(mode="after")
    def _each_is_made_before_it_is_used(self) -> Self:
        for key, values in self:
            if len(set(values)) < len(values):
                raise ValueError(f"models.{key} must name each model once, got {list(values)}")
        if "base" not in self.reported:
            raise ValueError(f"models.reported must have 'base', which the others are compared to, got {self.reported}")
        sources: dict[str, tuple[Sequence[str], str, Sequence[str]]] = {
            "finetuned": (self.finetuned, "pruned", [*self.pruned, "lowrank"]),
            "reported": (self.reported, "finetuned", ["base", *self.finetuned, "distilled"]),
            "packed": (self.packed, "reported", self.reported),
        }
        for key, (names, source, made) in sources.items():
            for name in names:
                if name not in made:
                    raise ValueError(
                        f"models.{key} has {name!r}, which models.{source} lacks; add it there or remove it here"
                    )
        return self


class Prune(Section):
    """What is removed from the base model."""

    ratio: Fraction = Field(description="structured: share of the channels removed")
    scope: Literal["uniform", "global"] = Field(description="structured: from every layer, or where they matter least")
    max_ratio: Fraction = Field(description="structured, global: the most that a layer loses")
    importance: Literal["magnitude", "bn_scale", "taylor"] = Field(
        description="structured: what makes a channel matter"
    )
    round_to: Count | None = Field(description="structured: kept channels become the nearest multiple of this")
    steps: Count = Field(description="structured: removed in this many steps, with fine-tuning between")
    step_epochs: Count = Field(description="structured: epochs of each fine-tuning between steps, as in finetune")
    sparsify_epochs: NonNegativeInt = Field(description="structured: epochs before pruning that draw scales to zero")
    sparsify_weight: PositiveFloat = Field(description="structured: of the L1 norm of the scales, in these epochs")
    sparsity: Fraction = Field(description="unstructured: share of the weights set to zero")
    sparsity_scope: Literal["global", "layer", "lamp"] = Field(
        description="unstructured: over all layers, in each, or over all with magnitudes relative to those of the layer"
    )
    start_sparsity: Fraction | None = Field(
        description="unstructured: share before fine-tuning, which raises it to sparsity; null for all at once"
    )
    reconstruction_images: NonNegativeInt = Field(
        description="Training images on which the weights left are fitted to what each layer gave before; 0 for none, "
        "512 take 3 GB of memory"
    )
    batch_norm_images: NonNegativeInt = Field(
        description="Training images that re-estimate the statistics of batch normalization after pruning, 0 for none"
    )

    @model_validator(mode="after")
    def _ratios_fit(self) -> Self:
        if self.scope == "global" and self.ratio > self.max_ratio:
            raise ValueError(
                f"prune.ratio must be at most prune.max_ratio ({self.max_ratio}) where prune.scope is global, "
                f"got {self.ratio}; change one of them"
            )
        if self.start_sparsity is not None and self.start_sparsity > self.sparsity:
            raise ValueError(
                f"prune.start_sparsity must be at most prune.sparsity ({self.sparsity}), got {self.start_sparsity}"
            )
        return self


class LowRank(Section):
    """Which layers of the base are replaced by two thinner ones each, and how thin."""

    macs_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(description="MACs of the network that are left")
    layers: list[str] = Field(min_length=1, description="Layers that gain; `make tune-lowrank` proposes them")
    round_to: Count = Field(description="Ranks become a multiple of this where they can")
    images: Count = Field(description="Training images on which the error of a layer's output is minimized")


class Quantize(Section):
    """Export to ONNX and static int8 quantization; of several calibrations the best on the validation images wins."""

    calibration_images: list[Count] = Field(min_length=1, description="Training images that set activation ranges")
    calibration_methods: list[Literal["minmax", "percentile", "entropy"]] = Field(min_length=1)
    bias_correction: bool = Field(description="Make up in the biases for the mean error of rounded weights")
    reduce_range: bool = Field(description="7-bit weights: no saturation on CPUs without VNNI")

    @model_validator(mode="after")
    def _each_calibration_is_tried_once(self) -> Self:
        for key in ("calibration_images", "calibration_methods"):
            if len(set(values := getattr(self, key))) < len(values):
                raise ValueError(f"quantize.{key} must have each value once, got {values}")
        return self


class Profile(Section):
    """How latency is measured: all variants take turns, so that a ratio holds on a noisy machine."""

    rounds: Count
    calls_per_round: Count
    threads: NonNegativeInt = Field(description="0 for all cores")


class Params(Section):
    """The whole of `params.yaml`."""

    data: Data
    models: Models
    model: Architecture
    train: Recipe
    prune: Prune
    finetune: StudentRecipe
    lowrank: LowRank
    distill: Student
    quantize: Quantize
    profile: Profile


def variant_name(model: str, precision: str) -> str:
    """The row of the report: `base` for fp32, `base-int8`."""
    return model if precision == "fp32" else f"{model}-{precision}"


def parse_params(text: str) -> Params:
    """Check the text of a parameter file.

    Raises:
        ValueError: One line per problem: the parameter, what is allowed, what came.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"must hold sections such as data and train, got {type(values).__name__}")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(_problem(details) for details in error.errors())) from None


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check the parameter file; on a mistake, print one line per problem and exit with 1."""
    try:
        return parse_params(path.read_text(encoding="utf-8"))
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}; run from the top of the repository")
    except ValueError as error:
        sys.exit("\n".join(f"{path}: {line}" for line in str(error).splitlines()))


def _problem(details: ErrorDetails) -> str:
    """One line for one of pydantic's error records."""
    where = ".".join(str(part) for part in details["loc"] if part != "[key]")
    got = details["input"]
    match details["type"]:
        case "extra_forbidden":
            return f"{where} is not a parameter; check its spelling against presets/"
        case "missing":
            return f"{where} is missing; copy it from presets/"
        case "too_short":
            return f"{where} must have an entry, got none; see presets/"
        case "value_error":
            message = str(details["ctx"]["error"])
            return f"{where}: {message}" if where and not message.startswith(where) else message
    shown = "a section" if isinstance(got, dict) else repr(got)
    return f"{where}: {details['msg'][0].lower()}{details['msg'][1:]}, got {shown}"
