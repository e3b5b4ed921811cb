"""The schema of params.yaml."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.lib.params import load_params, parse_params, render_params
from stages.lib.schema import Augmentation, Params

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
DEMO = render_params(load_params(ROOT / "presets" / "demo.yaml", complete=False))


def changed(section: str, **values: object) -> str:
    """The demo's parameters with some of a section's replaced; None deletes."""
    params = yaml.safe_load(DEMO)
    for name, value in values.items():
        if value is None:
            del params[section][name]
        else:
            params[section][name] = value
    return yaml.safe_dump(params, sort_keys=False)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_written_out_complete_and_reads_the_same(preset: Path) -> None:
    params = load_params(preset, complete=False)
    text = render_params(params)
    assert parse_params(text) == params
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_preset_needs_no_comment_in_its_first_line(tmp_path: Path) -> None:
    (preset := tmp_path / "mine.yaml").write_text("data:\n  name: digits\n")
    command = [sys.executable, "-m", "stages.lib.params", preset]
    written = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert parse_params(written.stdout).data.name == "digits"


def test_committed_params_are_those_of_a_preset() -> None:
    assert load_params(ROOT / "params.yaml") in [load_params(preset, complete=False) for preset in PRESETS]


def test_a_preset_repeats_no_default() -> None:
    for preset in PRESETS:
        values, defaults = yaml.safe_load(preset.read_text()), Params().model_dump()
        repeated = [key for key in _leaves(values) if _leaves(values)[key] == _leaves(defaults).get(key)]
        assert repeated in ([], ["data.name"]), preset


def test_presets_start_from_files_that_git_has() -> None:
    if (ROOT / ".git").exists() and not (ROOT / ".git" / "shallow").exists():
        starts = [load_params(preset, complete=False).train.start for preset in PRESETS]
        objects = [start for start in starts if start and ":" in start]
        assert objects
        for each in objects:
            subprocess.run(["git", "cat-file", "-e", each], cwd=ROOT, check=True)


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "image_sizes":
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("prune", {"ratio": 1.2}, "prune.ratio: input should be less than 1, got 1.2"),
        ("prune", {"ratoi": 0.2}, "prune.ratoi is not a parameter; did you mean ratio?"),
        ("prune", {"ratio": None}, "prune.ratio is missing; `make params PRESET=NAME` writes a complete file"),
        (
            "external",
            {"external": {"path": "x.onnx", "paht": "x"}},
            "external.external.paht is not a parameter; did you mean path?",
        ),
        ("train", {"lr": "fast"}, "train.lr: input should be a valid number, unable to parse string as a number"),
        ("train", {"lr": float("nan")}, "train.lr: input should be"),
        ("train", {"epochs": 0}, "train.epochs: input should be greater than 0, got 0"),
        ("train", {"warmup_epochs": 10}, "train: warmup_epochs must be below epochs (10), got 10"),
        ("train", {"image_sizes": {}}, "train.image_sizes must have an entry, got none"),
        ("train", {"image_sizes": {64: 1}}, "train.image_sizes.64: input should be less than or equal to 32, got 64"),
        ("train", {"image_sizes": {32: 1, 24: 1}}, "train: image_sizes must rise, got 32, 24; put smaller ones first"),
        ("data", {"name": "imagenet"}, "data.name: input should be 'cifar100', 'digits' or 'folder', got 'imagenet'"),
        ("data", {"name": "cifar100", "image_size": 64}, "data.image_size must be 32 where data.name is cifar100, got"),
        ("data", {"image_size": 300}, "data.image_size: input should be less than or equal to 256, got 300"),
        ("data", {"test_share": 1}, "data.test_share: input should be less than 1, got 1"),
        ("model", {"stem_stride": 3}, "model.stem_stride: input should be 1, 2 or 4, got 3"),
        ("train", {"start": "../x.safetensors"}, "train.start: string should match pattern"),
        ("data", {"limit_per_class": 20}, "data.val_per_class must be below data.limit_per_class (20), got 20; change"),
        ("prune", {"scope": "global", "ratio": 0.6}, "prune.ratio must be at most prune.max_ratio (0.5) where"),
        ("prune", {"start_sparsity": 0.9}, "prune.start_sparsity must be at most prune.sparsity (0.8), got 0.9"),
        ("lowrank", {"macs_ratio": 1}, "lowrank.macs_ratio: input should be less than 1, got 1"),
        ("distill", {"width": 0}, "distill.width: input should be greater than 0, got 0"),
        ("distill", {"seed": 1 << 63}, "distill.seed: input should be less than 9223372036854775808, got"),
        (
            "finetune",
            {"distillation": {"loss": "kd", "temperature": 2, "weight": 0, "label_weight": 1}},
            "finetune.distillation: weight must be above 0 where loss is kd, got 0; for the labels alone set loss",
        ),
        (
            "finetune",
            {"teacher_views": 2, "augmentation": Augmentation(mix_off_epochs=1).model_dump()},
            "finetune: augmentation.mix_off_epochs must be 0 where teacher_views is above 0, got 1",
        ),
        ("quantize", {"calibration_methods": ["minmax"] * 2}, "quantize.calibration_methods must have each value once"),
        ("quantize", {"calibration_images": [64, 64]}, "quantize.calibration_images must have each value once"),
        ("profile", {"threads": 10_000}, "profile.threads: input should be less than or equal to 1024, got 10000"),
        ("train", {"epochs": 1e9}, "train.epochs: input should be less than or equal to 10000"),
        ("train", {"\x1b[2J": 1}, "train.\\x1b[2J is not a parameter"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(section: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_params(changed(section, **values))
    lines = [line for line in str(error.value).splitlines() if "[key]" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_every_problem_is_listed_at_once() -> None:
    text = changed("train", lr=-1, epochs=0, momentun=0.9)
    with pytest.raises(ValueError) as error:
        parse_params(text)
    assert len(str(error.value).splitlines()) == 3


def test_a_number_in_text_is_a_number() -> None:
    assert parse_params(changed("train", lr="1e-05")).train.lr == 1e-5  # how `-S train.lr=1e-5` is written


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "a: [", "42", BOMB, "[" * 5000, "a: 1\na: 2", "x" * 200_000, "a: 2026-99-99", "? [a]\n: 1", "\x00"],
)
def test_a_file_that_is_no_parameter_file_is_an_error_of_one_short_line(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_params(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_parameters_are_frozen(demo: Params) -> None:
    with pytest.raises(ValueError, match="frozen"):
        demo.train.epochs = 3  # type: ignore[misc]


def test_a_stage_stops_at_a_bad_file_before_it_imports_torch_or_writes(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(changed("finetune", lr="fast"))
    code = (
        "import sys, runpy\n"
        "try: runpy.run_module('stages.train', run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == "False\n"
    assert done.stderr.startswith("params.yaml: finetune.lr: input should be a valid number")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
