"""What `params.yaml` may hold: every parameter with its type, range and default.

Values are tracked by DVC as parameters, so no stage depends on this file. Nothing here may import torch.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1, le=1_000_000)]
NonNegativeInt = Annotated[int, Field(ge=0, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
PositiveFloat = Annotated[float, Field(gt=0, le=10_000)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=10_000)]
ExternalName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]{0,30}$")]
Fraction = Annotated[float, Field(ge=0, lt=1)]  # [0, 1)
ImageSizes = Annotated[dict[Annotated[int, Field(ge=8, le=32)], PositiveFloat], Field(min_length=1)]


class Section(BaseModel):
    """A frozen group of parameters; `-S train.lr=1e-5` arrives as text, so numbers in text are accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class Data(Section):
    """Which images, and how many."""

    name: Literal["cifar100", "digits", "folder"] = Field("cifar100", description="cifar100, digits or folder")
    folder: Path = Field(Path("photos"), description="with train/CLASS/ and test/CLASS/, for name: folder")
    test_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="of each class held out for the test if there is no test/"
    )
    image_size: Annotated[int, Field(ge=32, le=256)] = Field(32, description="side in pixels, 32 to 256")
    limit_per_class: Count | None = Field(None, description="keep this many images of each class, for trials")
    val_per_class: Count = Field(20, description="training images of each class held out for validation")
    seed: Seed = Field(0, description="of the validation split")

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.name == "cifar100" and self.image_size != 32:
            raise ValueError(f"data.image_size must be 32 where data.name is cifar100, got {self.image_size}")
        if self.limit_per_class is not None and self.val_per_class >= self.limit_per_class:
            raise ValueError(
                f"data.val_per_class must be below data.limit_per_class ({self.limit_per_class}), got "
                f"{self.val_per_class}; change one of them"
            )
        return self


class Compute(Section):
    """Where models are trained, and how exactly."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto, fp32 or bf16; auto is bf16 where the device has it"
    )
    deterministic: bool = Field(False, description="bit-identical runs on CUDA, slower; not needed on a CPU")
    cuda_graph: bool = Field(True, description="launch a step's kernels together; only on CUDA")


class Architecture(Section):
    """The GoogLeNet that is trained."""

    width: Annotated[float, Field(gt=0, le=4)] = Field(1.0, description="multiplies every channel count")
    stem_pool: bool = Field(True, description="pool once after the stem: cuts MACs to a third, slightly less accurate")
    stem_stride: Literal[1, 2, 4] | None = Field(
        None, description="stride of the stem: 1, 2 or 4; null: 1 up to 64 px, 2 up to 128"
    )
    dropout: Fraction = 0.0


class Augmentation(Section):
    """What happens to a batch of training images."""

    flip: bool = True
    crop_padding: Annotated[int, Field(ge=0, le=16)] = Field(4, description="in 32nds of data.image_size")
    cutout: Annotated[int, Field(ge=0, le=32)] = Field(
        0, description="side of the grey square, in 32nds of data.image_size; 0 for none"
    )
    trivial_augment: bool = Field(False, description="one random colour or geometric operation for each image")
    mixup: Annotated[float, Field(ge=0, le=100)] = Field(0.0, description="alpha of the beta distribution, 0 for none")
    cutmix: Annotated[float, Field(ge=0, le=100)] = Field(0.3, description="alpha of the beta distribution, 0 for none")
    mix_off_epochs: NonNegativeFloat = Field(0.0, description="last epochs without Mixup and CutMix")


class Recipe(Section):
    """How a model is trained: SGD with Nesterov momentum, or Muon; the moving average after the last step is kept."""

    seed: Seed = 0
    epochs: PositiveFloat = Field(100.0, description="0.4 is 40 % of an epoch's batches")
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = Field(128, description="over all processes")
    lr: PositiveFloat = Field(0.1, description="peak, of SGD")
    muon_lr: PositiveFloat | None = Field(
        0.01, description="peak, of Muon for the convolutions, relative to their norm; null: SGD for all"
    )
    schedule: Literal["cosine", "one_cycle"] = Field(
        "one_cycle", description="after warm-up: cosine, or one_cycle (linear to 0)"
    )
    warmup_epochs: NonNegativeFloat = 1.0
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = Field(0.0005, description="of SGD, not on biases and normalization")
    label_smoothing: Fraction = 0.1
    ema_decay: Fraction = Field(0.998, description="of the weights' moving average; 0 keeps the raw weights")
    image_sizes: ImageSizes = Field(
        {20: 0.2, 24: 0.2, 28: 0.2, 32: 0.4}, description="side in 32nds of data.image_size, rising: share of the steps"
    )
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _warmup_ends_before_training(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs ({self.epochs:g}), got {self.warmup_epochs:g}")
        return self

    @model_validator(mode="after")
    def _image_sizes_rise(self) -> Self:
        if (sizes := list(self.image_sizes)) != sorted(sizes):  # DVC takes two orders for the same
            raise ValueError(f"image_sizes must rise, got {', '.join(map(str, sizes))}; put smaller ones first")
        return self


class Train(Recipe):
    """How the base is trained."""

    start: Annotated[str, Field(pattern=r"^([\w. -]+\.safetensors|[0-9a-f]{7,40}:[\w./-]+)$")] | None = Field(
        None, description="file in external/checkpoints/, or COMMIT:PATH"
    )


class Distillation(Section):
    """How a student learns from a teacher."""

    loss: Literal["none", "kd", "standardized_kd"] = Field(
        "standardized_kd", description="none, kd or standardized_kd; for 2 classes use kd"
    )
    temperature: Annotated[float, Field(gt=0, le=1000)] = 2.0
    weight: NonNegativeFloat = Field(9.0, description="of the teacher's part of the loss")
    label_weight: NonNegativeFloat = Field(1.0, description="of the labels' part of the loss")

    @model_validator(mode="after")
    def _a_teacher_has_a_say(self) -> Self:
        if self.loss != "none" and not self.weight:
            raise ValueError(
                f"weight must be above 0 where loss is {self.loss}, got 0; for the labels alone set loss: none"
            )
        return self


class StudentRecipe(Recipe):
    """How a model is trained that has the base as its teacher."""

    distillation: Distillation = Distillation()
    teacher_views: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="augmented versions of each image whose teacher logits are kept; 0: always new ones"
    )

    @model_validator(mode="after")
    def _views_come_again(self) -> Self:
        if self.teacher_views and self.augmentation.mix_off_epochs:
            raise ValueError(
                f"augmentation.mix_off_epochs must be 0 where teacher_views is above 0, got "
                f"{self.augmentation.mix_off_epochs:g}: views must stay as they are; change one of them"
            )
        return self


class Finetune(StudentRecipe):
    """How compressed models recover."""

    seed: Seed = 1
    epochs: PositiveFloat = Field(5.0, description="0.4 is 40 % of an epoch's batches")
    lr: PositiveFloat = Field(0.03, description="peak, of SGD")
    muon_lr: PositiveFloat | None = Field(0.008, description="as in train")
    warmup_epochs: NonNegativeFloat = 0.1
    ema_decay: Fraction = Field(0.98, description="as in train")
    image_sizes: ImageSizes = Field({32: 1.0}, description="as in train")


class Student(StudentRecipe):
    """A narrower network that learns from the base, and how it is trained."""

    width: Annotated[float, Field(gt=0, le=1)] = Field(0.36, description="multiplies the channel counts of the base")
    round_to: Count | None = Field(16, description="channel counts become the nearest multiple of this")
    stem_pool: bool = Field(True, description="false: more MACs, same bytes")
    start: Literal["scratch", "base"] = Field(
        "base", description="scratch (random weights) or base (its largest channels)"
    )
    reconstruction_images: NonNegativeInt = Field(512, description="start base: as prune.reconstruction_images")
    teacher_views: Annotated[int, Field(ge=0, le=1000)] = Field(12, description="as in finetune")
    seed: Seed = 2
    epochs: PositiveFloat = Field(40.0, description="0.4 is 40 % of an epoch's batches")
    lr: PositiveFloat = Field(0.04, description="peak, of SGD")
    muon_lr: PositiveFloat | None = Field(0.015, description="as in train")
    warmup_epochs: NonNegativeFloat = 0.1
    ema_decay: Fraction = Field(0.98, description="as in train")
    image_sizes: ImageSizes = Field({24: 0.6, 32: 0.4}, description="as in train")


class Squeeze(Finetune):
    """A sparse network of coarse weights that starts from the base, and how it is trained."""

    sparsity: Fraction = Field(0.87, description="share of the weights that are zero at the end")
    start_sparsity: Fraction = Field(0.7, description="share of the weights that are zero at first")
    weight_bits: Annotated[int, Field(ge=2, le=7)] = Field(5, description="of each weight, sign included")
    reconstruction_images: NonNegativeInt = Field(512, description="as prune.reconstruction_images")
    seed: Seed = 3
    epochs: PositiveFloat = Field(15.0, description="0.4 is 40 % of an epoch's batches")

    @model_validator(mode="after")
    def _sparsity_rises(self) -> Self:
        if self.start_sparsity > self.sparsity:
            raise ValueError(f"start_sparsity must be at most sparsity ({self.sparsity}), got {self.start_sparsity}")
        return self


class Prune(Section):
    """What is removed from the base: channels (structured) or single weights (unstructured)."""

    ratio: Fraction = Field(0.2, description="structured: share of the channels removed")
    scope: Literal["uniform", "global"] = Field(
        "uniform", description="structured: uniform (the same share in each layer) or global"
    )
    max_ratio: Fraction = Field(0.5, description="structured, global: the most that a layer loses")
    importance: Literal["magnitude", "bn_scale", "taylor"] = Field(
        "magnitude", description="structured: magnitude, bn_scale or taylor"
    )
    round_to: Count | None = Field(16, description="structured: kept channels become the nearest multiple of this")
    sparsity: Fraction = Field(0.8, description="unstructured: share of the weights set to zero")
    sparsity_scope: Literal["global", "layer", "lamp"] = Field(
        "lamp", description="unstructured: smallest weights globally, by layer, or by lamp (relative to their layer)"
    )
    start_sparsity: Fraction | None = Field(
        None, description="unstructured: share before fine-tuning raises it to sparsity; null: all at once"
    )
    reconstruction_images: NonNegativeInt = Field(
        512, description="to refit the remaining weights to each layer's output, 0 for none; 512 take 3 GB"
    )
    batch_norm_images: NonNegativeInt = Field(2000, description="to re-estimate batch normalization, 0 for none")

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

    macs_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="share of the network's MACs left")
    layers: list[str] = Field(
        ["stem.[12]", "blocks.*.branch2.1", "blocks.*.branch3.[12]"],
        min_length=1,
        max_length=100,
        description="`make tune-lowrank` says which layers gain",
    )
    round_to: Count = Field(8, description="ranks become a multiple of this where possible")
    images: Count = Field(512, description="on which the error of a layer's output is minimized")


class Quantize(Section):
    """Export to ONNX and static int8 quantization; of several calibrations the best on the validation images wins."""

    calibration_images: list[Count] = Field([64, 256], min_length=1, description="to set activation ranges")
    calibration_methods: list[Literal["minmax", "percentile", "entropy"]] = Field(
        ["minmax", "percentile"], min_length=1, description="minmax, percentile or entropy; the best wins"
    )
    max_loss_pct: NonNegativeFloat | None = Field(
        None, description="most points of error that int8 may add; the worst layers stay in float; null: none do"
    )
    bias_correction: bool = Field(True, description="correct the biases for the mean error of rounded weights")
    weight_rounding: Literal["nearest", "gptq"] = Field(
        "gptq", description="nearest, or gptq: each makes up for the error of those before it"
    )
    reduce_range: bool = Field(True, description="7-bit weights: no saturation on CPUs without VNNI")

    @model_validator(mode="after")
    def _each_calibration_is_tried_once(self) -> Self:
        for key in ("calibration_images", "calibration_methods"):
            if len(set(values := getattr(self, key))) < len(values):
                raise ValueError(f"quantize.{key} must have each value once, got {values}")
        return self


class External(Section):
    """A classifier from elsewhere, which is quantized and measured as ours are."""

    path: Annotated[str, Field(pattern=r"^[^/\\]+\.onnx$")]
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] = [0.485, 0.456, 0.406]
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)] = [0.229, 0.224, 0.225]


class Profile(Section):
    """How latency is measured: all variants take turns, so that a ratio holds on a noisy machine."""

    rounds: Count = 30
    calls_per_round: Count = 20
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="0 for all physical cores")


class Params(Section):
    """The whole of `params.yaml`."""

    data: Data = Data()
    compute: Compute = Compute()
    model: Architecture = Architecture()
    train: Train = Train()
    prune: Prune = Prune()
    lowrank: LowRank = LowRank()
    finetune: Finetune = Finetune()
    distill: Student = Student()
    squeeze: Squeeze = Squeeze()
    quantize: Quantize = Quantize()
    external: dict[ExternalName, External] = Field(
        {}, max_length=20, description="name: {path: FILE.onnx in external/onnx/, layout, mean, std}"
    )
    profile: Profile = Profile()
