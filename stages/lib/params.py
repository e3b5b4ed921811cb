"""Schema of `params.yaml` and of the presets: defaults, types, ranges, and no unknown keys.

Every stage calls `load_params` before it imports torch, so a mistake anywhere in the file stops the first stage and
not the third hour. A preset holds what differs from the defaults here, which are those of the reference run;
`make params PRESET=cpu` writes the complete `params.yaml` that DVC tracks. Nothing here may import torch.
"""

import argparse
import difflib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from stages.lib.stage import printable

PARAMS_FILE = Path("params.yaml")
MAX_BYTES = 100_000
MAX_DEPTH = 10

Count = Annotated[int, Field(ge=1, le=1_000_000)]
NonNegativeInt = Annotated[int, Field(ge=0, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
PositiveFloat = Annotated[float, Field(gt=0, le=10_000)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=10_000)]
ExternalName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.]{0,30}$")]
Fraction = Annotated[float, Field(ge=0, lt=1)]  # [0, 1)


class Section(BaseModel):
    """A frozen group of parameters; `-S train.lr=1e-5` arrives as text, so numbers in text are accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class Data(Section):
    """Which images, and how many."""

    name: Literal["cifar100", "digits", "folder"] = "cifar100"
    folder: Path = Field(Path("photos"), description="with train/CLASS/ and test/CLASS/, for name: folder")
    test_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="of each class, for the test where the folder has no test/"
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

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto is bf16 where the device has it")
    deterministic: bool = Field(
        False, description="on CUDA the same bits on every run, slower; a CPU gives them anyway"
    )
    cuda_graph: bool = Field(True, description="launch a step's kernels together; only on CUDA")


class Architecture(Section):
    """The GoogLeNet that is trained."""

    width: Annotated[float, Field(gt=0, le=4)] = Field(1.0, description="multiplies every channel count")
    stem_pool: bool = Field(True, description="pool once after the stem: a third of the MACs, somewhat less accurate")
    stem_stride: Literal[1, 2, 4] | None = Field(
        None, description="pixels that the first layers make one: 1, 2 or 4; null: 1 up to 64 px, 2 up to 128"
    )
    dropout: Fraction = 0.0


class Augmentation(Section):
    """What happens to a batch of training images."""

    flip: bool = True
    crop_padding: Annotated[int, Field(ge=0, le=16)] = Field(4, description="pixels, as in image_sizes")
    cutout: Annotated[int, Field(ge=0, le=32)] = Field(
        0, description="side of the grey square, as in image_sizes; 0 for none"
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
    schedule: Literal["cosine", "one_cycle"] = Field("one_cycle", description="after warm-up, cosine or linear to 0")
    warmup_epochs: NonNegativeFloat = 1.0
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = Field(0.0005, description="of SGD, not on biases and normalization")
    label_smoothing: Fraction = 0.1
    ema_decay: Fraction = Field(0.998, description="of the weights' moving average; 0 keeps the raw weights")
    image_sizes: dict[Annotated[int, Field(ge=8, le=32)], PositiveFloat] = Field(
        {20: 0.2, 24: 0.2, 28: 0.2, 32: 0.4},
        min_length=1,
        description="side where whole images have 32 px: share of the steps, in order",
    )
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _warmup_ends_before_training(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs ({self.epochs:g}), got {self.warmup_epochs:g}")
        return self


class Train(Recipe):
    """How the base is trained."""

    start: Annotated[str, Field(pattern=r"^[^/\\]+\.safetensors$")] | None = Field(
        None, description="checkpoint in external/ to begin with; its width counts"
    )


class Distillation(Section):
    """How a student learns from a teacher."""

    loss: Literal["none", "kd", "standardized_kd"] = Field(
        "standardized_kd",
        description="none: labels alone; kd for 2 classes, whose standardized logits say too little",
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
        0, description="versions of each image, of which the teacher's logits are kept in a file; 0: always new ones"
    )


class Finetune(StudentRecipe):
    """How compressed models recover."""

    seed: Seed = 1
    epochs: PositiveFloat = Field(5.0, description="0.4 is 40 % of an epoch's batches")
    lr: PositiveFloat = Field(0.03, description="peak, of SGD")
    muon_lr: PositiveFloat | None = Field(0.008, description="as in train")
    warmup_epochs: NonNegativeFloat = 0.1
    ema_decay: Fraction = Field(0.98, description="as in train")
    image_sizes: dict[Annotated[int, Field(ge=8, le=32)], PositiveFloat] = Field(
        {32: 1.0}, min_length=1, description="as in train"
    )


class Student(StudentRecipe):
    """A narrower network that learns from the base, and how it is trained."""

    width: Annotated[float, Field(gt=0, le=1)] = Field(0.36, description="multiplies the channel counts of the base")
    round_to: Count | None = Field(16, description="channel counts become the nearest multiple of this")
    stem_pool: bool = Field(True, description="false pays in MACs, not in bytes")
    start: Literal["scratch", "base"] = Field("base", description="random weights or the base's largest channels")
    reconstruction_images: NonNegativeInt = Field(512, description="start base: as prune.reconstruction_images")
    teacher_views: Annotated[int, Field(ge=0, le=1000)] = Field(12, description="as in finetune")
    seed: Seed = 2
    epochs: PositiveFloat = Field(40.0, description="0.4 is 40 % of an epoch's batches")
    lr: PositiveFloat = Field(0.04, description="peak, of SGD")
    muon_lr: PositiveFloat | None = Field(0.015, description="as in train")
    warmup_epochs: NonNegativeFloat = 0.1
    ema_decay: Fraction = Field(0.98, description="as in train")
    image_sizes: dict[Annotated[int, Field(ge=8, le=32)], PositiveFloat] = Field(
        {24: 0.6, 32: 0.4}, min_length=1, description="as in train"
    )


class Squeeze(StudentRecipe):
    """A sparse network of coarse weights that starts from the base, and how it is trained."""

    sparsity: Fraction = Field(0.87, description="share of the weights that are zero at the end")
    start_sparsity: Fraction = Field(0.7, description="share of the weights that are zero at first")
    weight_bits: Annotated[int, Field(ge=2, le=7)] = Field(5, description="of each weight, sign included")
    reconstruction_images: NonNegativeInt = Field(512, description="as prune.reconstruction_images")
    seed: Seed = 3
    epochs: PositiveFloat = Field(15.0, description="0.4 is 40 % of an epoch's batches")
    lr: PositiveFloat = Field(0.03, description="peak, of SGD")
    muon_lr: PositiveFloat | None = Field(0.008, description="as in train")
    warmup_epochs: NonNegativeFloat = 0.1
    ema_decay: Fraction = Field(0.98, description="as in train")
    image_sizes: dict[Annotated[int, Field(ge=8, le=32)], PositiveFloat] = Field(
        {32: 1.0}, min_length=1, description="as in train"
    )

    @model_validator(mode="after")
    def _sparsity_rises(self) -> Self:
        if self.start_sparsity > self.sparsity:
            raise ValueError(f"start_sparsity must be at most sparsity ({self.sparsity}), got {self.start_sparsity}")
        return self


class Prune(Section):
    """What is removed from the base: channels (structured) or single weights (unstructured)."""

    ratio: Fraction = Field(0.2, description="structured: share of the channels removed")
    scope: Literal["uniform", "global"] = Field("uniform", description="structured: in each layer, or over all")
    max_ratio: Fraction = Field(0.5, description="structured, global: the most that a layer loses")
    importance: Literal["magnitude", "bn_scale", "taylor"] = Field(
        "magnitude", description="structured: what makes a channel matter"
    )
    round_to: Count | None = Field(16, description="structured: kept channels become the nearest multiple of this")
    sparsity: Fraction = Field(0.8, description="unstructured: share of the weights set to zero")
    sparsity_scope: Literal["global", "layer", "lamp"] = Field(
        "lamp", description="unstructured: smallest of all layers, of each, or of all relative to those of the layer"
    )
    start_sparsity: Fraction | None = Field(
        None, description="unstructured: share before fine-tuning, which raises it to sparsity; null: all at once"
    )
    reconstruction_images: NonNegativeInt = Field(
        512, description="on which the weights left are fitted to what each layer gave before; 512 take 3 GB"
    )
    batch_norm_images: NonNegativeInt = Field(2000, description="that re-estimate batch normalization, 0 for none")

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

    macs_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="MACs of the network that are left")
    layers: list[str] = Field(
        ["stem.[12]", "blocks.*.branch2.1", "blocks.*.branch3.[12]"],
        min_length=1,
        max_length=100,
        description="`make tune-lowrank` says which gain",
    )
    round_to: Count = Field(8, description="ranks become a multiple of this where they can")
    images: Count = Field(512, description="on which the error of a layer's output is minimized")


class Quantize(Section):
    """Export to ONNX and static int8 quantization; of several calibrations the best on the validation images wins."""

    calibration_images: list[Count] = Field([64, 256], min_length=1, description="that set activation ranges")
    calibration_methods: list[Literal["minmax", "percentile", "entropy"]] = Field(
        ["minmax", "percentile"], min_length=1
    )
    max_loss_pct: NonNegativeFloat | None = Field(
        None, description="points of validation error above which layers stay in float, the worst first; null: none do"
    )
    bias_correction: bool = Field(True, description="make up in the biases for the mean error of rounded weights")
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
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="0 for all cores")


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
        {}, max_length=20, description="name: {path: FILE.onnx in external/, layout, mean, std}"
    )
    profile: Profile = Profile()


def parse_params(text: str, *, complete: bool = True) -> Params:
    """Check the text of a parameter file.

    Args:
        complete: Whether every parameter must be there; a preset leaves defaults out.

    Raises:
        ValueError: One line per problem: the parameter, what is allowed, what came.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"must have at most {MAX_BYTES:,} characters, got {len(text):,}")
    try:
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise ValueError(f"not valid YAML: {_printable(' '.join(str(error).split()))}") from None
    if not isinstance(values, dict):
        raise ValueError(f"must hold sections such as data and train, got {type(values).__name__}")
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        missing = _missing(Params(), values) if complete else []
        raise ValueError("\n".join([*(_problem(details) for details in error.errors()), *missing])) from None
    if complete and (missing := _missing(Params(), values)):
        raise ValueError("\n".join(missing))
    return params


def load_params(path: Path = PARAMS_FILE, *, complete: bool = True) -> Params:
    """Read and check a parameter file; on a mistake, print one line per problem and exit with 1."""
    try:
        return parse_params(path.read_text(encoding="utf-8"), complete=complete)
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}; run from the top of the repository")
    except ValueError as error:
        sys.exit("\n".join(f"{path}: {line}" for line in str(error).splitlines()))


def render_params(params: Section, *, indent: str = "") -> str:
    """The text of a complete parameter file, each parameter with what it means."""
    lines = []
    for name, field in type(params).model_fields.items():
        value = getattr(params, name)
        if isinstance(value, Section):
            lines += [f"{indent}{name}:", render_params(value, indent=f"{indent}  ")]
            continue
        plain = value if name == "image_sizes" else params.model_dump(mode="json", include={name})[name]
        text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000).removesuffix("...\n").strip()
        comment = f"  # {field.description}" if field.description else ""
        lines.append(f"{indent}{name}: {text}{comment}")
    return "\n".join(lines)


class _Loader(yaml.SafeLoader):
    """Refuses what a parameter file needs never: aliases, which can explode, deep nesting, and a key twice."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not allowed, got one in line {self.peek_event().start_mark.line + 1}")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"at most {MAX_DEPTH} levels are allowed, got more")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), keys[0])
            raise yaml.YAMLError(f"a key must stand once, got {twice!r} again near line {node.start_mark.line + 1}")
        return mapping


def _missing(section: Section, values: dict[str, Any], prefix: str = "") -> list[str]:
    """A line for each parameter of a section that `values` lack."""
    lines = []
    for name, default in section:
        if name not in values:
            lines.append(f"{prefix}{name} is missing; `make params` writes a complete file")
        elif isinstance(default, Section) and isinstance(values[name], dict):
            lines += _missing(default, values[name], f"{prefix}{name}.")
    return lines


def _problem(details: ErrorDetails) -> str:
    """One line for one of pydantic's error records."""
    path = [str(part) for part in details["loc"] if part != "[key]"]
    where, got = _printable(".".join(path)), details["input"]
    match details["type"]:
        case "extra_forbidden":
            section: Any = Params
            for part in path[:-1]:
                section = External if section is None else section.model_fields[part].annotation
                section = None if part == "external" else section
            near = difflib.get_close_matches(path[-1], section.model_fields, n=1, cutoff=0.0)
            return f"{where} is not a parameter; did you mean {near[0]}?"
        case "too_short":
            return f"{where} must have an entry, got none"
        case "value_error":
            message = str(details["ctx"]["error"])
            return f"{where}: {message}" if where and not message.startswith(where) else message
    shown = "a section" if isinstance(got, dict) else _printable(repr(got))
    return f"{where}: {details['msg'][0].lower()}{details['msg'][1:]}, got {shown}"


def _printable(text: str) -> str:
    """At most 200 characters, none of which a terminal would obey."""
    escaped = printable(text)
    return escaped if len(escaped) <= 200 else f"{escaped[:200]}…"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the complete parameter file of a preset.")
    parser.add_argument("preset", type=Path, help="such as presets/cpu.yaml")
    preset = parser.parse_args().preset
    about = next(iter(preset.read_text(encoding="utf-8").splitlines() or [""]), "") if preset.exists() else ""
    print(about, f"# `make params PRESET={preset.stem}` wrote this file.", sep="\n")
    print(render_params(load_params(preset, complete=False)))
