"""Whatever the schema accepts runs, or ends in a line that says what to change."""

import copy
import random
import runpy
import sys
from typing import Any

import pytest
import yaml

from stages.lib.params import PARAMS_FILE, parse_params
from tests.repository import Repository

pytestmark = pytest.mark.slow

STAGES = (
    ["train"],
    ["refine"],
    ["prune"],
    ["sparsify"],
    ["factorize"],
    ["finetune", "unstructured"],
    ["distill"],
    ["squeeze"],
    ["quantize", "unstructured"],
)
AUGMENTATION: dict[str, list[Any]] = {
    "flip": [True, False],
    "crop_padding": [0, 16],
    "cutout": [0, 1, 32],
    "trivial_augment": [True, False],
    "mixup": [0, 0.01, 100],
    "cutmix": [0, 0.01, 100],
    "mix_off_epochs": [0, 0.5, 1000],
}
RECIPE: dict[str, list[Any]] = {
    "epochs": [0.01, 0.3, 1.1],
    "warmup_epochs": [0, 0.005, 0.2],
    "batch_size": [2, 7, 32, 1000],
    "lr": [1e-9, 0.1, 1000],
    "muon_lr": [None, 1e-9, 0.05, 1000],
    "schedule": ["cosine", "one_cycle"],
    "momentum": [0, 0.9, 0.999],
    "weight_decay": [0, 0.1, 100],
    "label_smoothing": [0, 0.99],
    "ema_decay": [0, 0.9, 0.9999],
    "image_sizes": [{8: 1}, {32: 1}, {9: 0.001, 31: 1000}],
    "augmentation": AUGMENTATION,
}
DISTILLATION: dict[str, list[Any]] = {
    "distillation": {
        "loss": ["none", "kd", "standardized_kd"],
        "temperature": [0.01, 4, 1000],
        "weight": [0.1, 9],
        "label_weight": [0, 1],
    },
    "teacher_views": [0, 1, 3],
}
EXTREMES: dict[str, Any] = {
    "model": {"width": [0.02, 0.1], "stem_pool": [True, False], "stem_stride": [None, 1, 2, 4], "dropout": [0, 0.9]},
    "train": RECIPE,
    "prune": {
        "ratio": [0, 0.01, 0.5, 0.99],
        "scope": ["uniform", "global"],
        "max_ratio": [0.5, 0.999],
        "importance": ["magnitude", "bn_scale", "taylor"],
        "round_to": [None, 1, 16, 1000],
        "sparsity": [0, 0.5, 0.9999],
        "sparsity_scope": ["global", "layer", "lamp"],
        "start_sparsity": [None, 0],
        "reconstruction_images": [0, 1, 5],
        "batch_norm_images": [0, 1, 5],
    },
    "lowrank": {
        "macs_ratio": [0.001, 0.5, 0.999],
        "layers": [["*"], ["linear"], ["stem.0"]],
        "round_to": [1, 8, 1000],
        "images": [1, 5],
    },
    "finetune": RECIPE | DISTILLATION,
    "distill": RECIPE
    | DISTILLATION
    | {"width": [0.01, 0.5, 1], "round_to": [None, 16, 1000], "stem_pool": [True, False], "start": ["scratch", "base"]},
    "squeeze": RECIPE | DISTILLATION | {"sparsity": [0, 0.9, 0.9999], "start_sparsity": [0], "weight_bits": [2, 7]},
    "quantize": {
        "calibration_images": [[1], [3, 100_000]],
        "calibration_methods": [["minmax"], ["percentile"], ["entropy"]],
        "max_loss_pct": [None, 0],
        "bias_correction": [True, False],
        "weight_rounding": ["nearest", "gptq"],
        "reduce_range": [True, False],
    },
}


@pytest.fixture(scope="module")
def repository(finished: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return finished.duplicate(tmp_path_factory.mktemp("settings"))


def drawn(choices: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    return {
        key: drawn(values, chance) if isinstance(values, dict) else copy.deepcopy(chance.choice(values))
        for key, values in choices.items()
    }


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(old[key], new[key]) for key in old.keys() & new.keys() if isinstance(old[key], dict)}
    return old | new | {key: value for key, value in both.items() if key != "image_sizes"}


def accepted(text: str, chance: random.Random) -> str:
    """Extreme settings, section after section such as the schema takes."""
    params = yaml.safe_load(text)
    for section, choices in EXTREMES.items():
        while True:
            tried = merged(params, {section: drawn(choices, chance)})
            try:
                parse_params(yaml.safe_dump(tried))
                break
            except ValueError:
                pass
        params = tried
    return yaml.safe_dump(params)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore")
def test_extreme_settings_run_or_say_what_to_change(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(repository.path)
    plain = PARAMS_FILE.read_text()
    PARAMS_FILE.write_text(accepted(plain, random.Random(seed)))
    try:
        for stage, *arguments in STAGES:
            monkeypatch.setattr(sys, "argv", [stage, *arguments])
            monkeypatch.delitem(sys.modules, f"stages.{stage}", raising=False)
            try:
                runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
            except SystemExit as ended:
                assert isinstance(ended.code, str) and ended.code.startswith(f"{stage}: "), ended.code
                assert len(ended.code.splitlines()) == 1
    finally:
        PARAMS_FILE.write_text(plain)
