"""The training loop."""

import copy
import errno
import json
import math
import os
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from stages.lib.images import Images
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.pruning.sparsity import RisingSparsity
from stages.lib.pruning.weights import prune_weights
from stages.lib.schema import Compute, Params, Recipe, StudentRecipe
from stages.lib.training import batches, resume
from stages.lib.training import fit as training
from stages.lib.training import step as run
from stages.lib.training.devices import pick_device, pick_precision
from stages.lib.training.resume import ResumeFile


@pytest.fixture(autouse=True)
def every_epoch_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it had taken minutes."""
    monkeypatch.setattr(training, "SAVING_SHARE", math.inf)


CPU = Compute(device="cpu", precision="fp32")
fit = partial(training.fit, compute=CPU)


@pytest.fixture
def recipe(demo: Params) -> Recipe:
    """Two epochs of three steps, with everything random switched on."""
    augmentation = demo.train.augmentation.model_copy(
        update={"flip": True, "cutout": 8, "mixup": 0.2, "cutmix": 1.0, "mix_off_epochs": 1}
    )
    changes = {
        "epochs": 2,
        "batch_size": 10,
        "warmup_epochs": 1,
        "image_sizes": {8: 1, 16: 1},
        "ema_decay": 0.5,
    }
    return demo.train.model_copy(update={**changes, "augmentation": augmentation})


def weights(model: GoogLeNet) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Send this process a signal when `step` begins."""
    original = run.Run.train_step

    def train_step(self: Any, current: int) -> None:
        if current == step:
            os.kill(os.getpid(), number)
        original(self, current)

    monkeypatch.setattr(run.Run, "train_step", train_step)


def test_images_that_fill_the_memory_are_read_batch_by_batch_and_give_the_same_weights(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tiny, images, images, recipe=recipe)
    monkeypatch.setattr(batches, "MEMORY_SHARE", 0)
    assert torch.equal(weights(fit(tiny, images, images, recipe=recipe).model), weights(whole.model))


def test_training_learns_what_can_be_learned(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    pixels = images.pixels // 2
    pixels[np.arange(30), :, :, images.labels] += 120  # the class is a colour
    coloured = Images(pixels, images.labels, images.classes)
    plain = recipe.augmentation.model_copy(update={"cutout": 0, "mixup": 0.0, "cutmix": 0.0})
    changes = {"epochs": 20, "lr": 0.03, "image_sizes": {32: 1}, "augmentation": plain}
    longer = recipe.model_copy(update=changes)
    trained = fit(tiny, coloured, coloured, recipe=longer)
    assert trained.curve[-1]["val_error_pct"] < 10
    assert trained.curve[-1]["train_loss"] < trained.curve[0]["train_loss"]


def test_the_same_call_gives_the_same_weights_and_leaves_its_model_alone(
    tiny: GoogLeNet, images: Images, recipe: Recipe
) -> None:
    before = weights(tiny)
    runs = []
    for _ in range(2):
        trained = fit(tiny, images, images, recipe=recipe)
        trained.resume_file.delete()
        runs.append(weights(trained.model))
    assert torch.equal(*runs)
    assert torch.equal(weights(tiny), before)
    assert not torch.equal(runs[0], before)
    other = fit(tiny, images, images, recipe=recipe.model_copy(update={"seed": 5}))
    assert not torch.equal(weights(other.model), runs[0])


@pytest.mark.parametrize(("step", "number"), [(0, signal.SIGINT), (3, signal.SIGTERM), (5, signal.SIGINT)])
def test_stopped_training_goes_on_to_identical_weights(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, step: int, number: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = fit(tiny, images, images, recipe=recipe, evaluate_first=True)
    whole.resume_file.delete()
    with monkeypatch.context() as patch:
        stop_at(step, patch, number)
        with pytest.raises(SystemExit) as stopped:
            fit(tiny, images, images, recipe=recipe, evaluate_first=True)
    assert stopped.value.code == 128 + number
    resumed = fit(tiny, images, images, recipe=recipe, evaluate_first=True)
    assert f"resuming at step {step + 1} of 6" in capsys.readouterr().out
    assert torch.equal(weights(resumed.model), weights(whole.model))
    for row, expected in zip(resumed.curve, whole.curve, strict=True):
        assert row | {"images_per_s": None} == expected | {"images_per_s": None}


def test_the_curve_tells_the_error_at_the_size_that_is_trained_on_too(
    tiny: GoogLeNet, images: Images, recipe: Recipe
) -> None:
    small, whole = fit(tiny, images, images, recipe=recipe.model_copy(update={"image_sizes": {8: 1, 32: 1}})).curve
    assert (small["image_size"], whole["image_size"]) == (8, 32)
    assert whole["val_error_at_size_pct"] == whole["val_error_pct"]
    shrunk = training.resident(images.pixels, size=8, padding=0, device=torch.device("cpu"))
    halfway = fit(tiny, images, images, recipe=recipe.model_copy(update={"image_sizes": {8: 1}}))
    error = training.error_rate(halfway.model, shrunk, torch.from_numpy(images.labels), precision=torch.float32)
    assert halfway.curve[-1]["val_error_at_size_pct"] == error


@pytest.mark.parametrize("num_epochs", [2, 1.7])  # of three steps; 1.7 makes five
def test_the_curve_is_of_the_validation_images_and_of_the_model_that_is_kept(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, num_epochs: float,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    val = Images(images.pixels[:6], np.array([0, 1, 2, 0, 1, 2]), images.classes)
    losses, batch_loss = [], run.Run._batch_loss

    def recorded(self: run.Run, *batch: torch.Tensor) -> torch.Tensor:
        losses.append(batch_loss(self, *batch))
        return losses[-1]

    monkeypatch.setattr(run.Run, "_batch_loss", recorded)
    trained = fit(tiny, images, val, recipe=recipe.model_copy(update={"epochs": num_epochs}))
    pixels, labels = torch.from_numpy(val.pixels), torch.from_numpy(val.labels)
    error = training.error_rate(trained.model, pixels, labels, precision=torch.float32)
    assert trained.curve[-1]["val_error_pct"] == error
    assert (trained.facts["num_train_images"], trained.facts["num_val_images"]) == (30, 6)
    assert len(losses) == trained.facts["num_steps"] == round(3 * num_epochs)
    assert [row["epoch"] for row in trained.curve] == [1, num_epochs]
    assert f"epoch {num_epochs:3g}/{num_epochs:g} " in capsys.readouterr().out
    assert [row["train_loss"] for row in trained.curve] == pytest.approx(
        [torch.stack(epoch).mean().item() for epoch in (losses[:3], losses[3:])]
    )


def test_a_state_is_of_one_teacher_one_mask_schedule_and_one_set_of_images(
    tiny: GoogLeNet, images: Images, recipe: Recipe, demo: Params
) -> None:
    student = StudentRecipe.model_validate(
        recipe.model_dump(exclude={"start"}) | {"distillation": demo.finetune.distillation}
    )
    other_teacher = copy.deepcopy(tiny)
    with torch.no_grad():
        other_teacher.linear.bias += 1
    others = [
        Images(images.pixels ^ 1, images.labels, images.classes),
        Images(images.pixels, images.labels[::-1].copy(), images.classes),
    ]
    runs = [
        run.Run(tiny, images, compute=CPU, recipe=student, teacher=teacher) for teacher in (None, tiny, other_teacher)
    ]
    schedules = [RisingSparsity(0.5, end, "layer") for end in (0.8, 0.9)]
    runs += [run.Run(tiny, images, compute=CPU, recipe=student, mask_schedule=each) for each in (*schedules, None)]
    runs[-1].precision = torch.bfloat16
    names = [training._fingerprint(tiny, images, each) for each in runs]
    names += [training._fingerprint(tiny, other, runs[0]) for other in others]
    names.append(training._fingerprint(other_teacher, images, runs[0]))
    assert len(set(names)) == len(names) == 9


def test_the_recipe_decides_whether_there_is_a_teacher(
    tiny: GoogLeNet, images: Images, recipe: Recipe, demo: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = []

    class Recorded(run.Run):
        def __init__(self, *args: Any, teacher: Any, **options: Any) -> None:
            teachers.append(teacher)
            super().__init__(*args, teacher=teacher, **options)

    monkeypatch.setattr(training, "Run", Recorded)
    for loss in ("none", "kd"):
        told = demo.finetune.distillation.model_copy(update={"loss": loss})
        student = StudentRecipe.model_validate(
            recipe.model_dump(exclude={"start"}) | {"epochs": 0.1, "warmup_epochs": 0, "distillation": told}
        )
        fit(tiny, images, images, recipe=student, teacher=tiny)
    assert teachers == [None, tiny]


def test_another_parameter_does_not_take_up_an_old_state(
    tiny: GoogLeNet, images: Images, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit(tiny, images, images, recipe=recipe)
    other = fit(tiny, images, images, recipe=recipe.model_copy(update={"lr": 0.01}))
    assert first.resume_file.path != other.resume_file.path
    assert "resuming" not in capsys.readouterr().out


@pytest.mark.parametrize(("share", "expected"), [(math.inf, [3, 6, 9]), (1e-9, [3, 9])])
def test_epochs_are_saved_unless_that_takes_too_much_of_the_time(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, share: float, expected: list[int]
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(training, "SAVING_SHARE", share)
    monkeypatch.setattr(ResumeFile, "save", lambda _, __, state: steps.append(state["step"]))
    fit(tiny, images, images, recipe=recipe.model_copy(update={"epochs": 3}))
    assert steps == expected


def test_a_save_on_a_full_disk_keeps_the_state_before(resume_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ResumeFile("state")
    file.save({"x": torch.ones(2)}, {"step": 1})

    def fill(path: Path, content: bytes) -> None:
        with path.open("wb") as half_written:
            half_written.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        file.save({"x": torch.zeros(2)}, {"step": 2})
    saved = file.load()
    assert saved is not None
    assert (saved[0]["x"].tolist(), saved[1]) == ([1.0, 1.0], {"step": 1})
    assert list(resume_dir.iterdir()) == [file.path]


def test_a_broken_resume_file_starts_over(
    tiny: GoogLeNet, images: Images, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit(tiny, images, images, recipe=recipe)
    first.resume_file.path.write_bytes(b"broken")
    again = fit(tiny, images, images, recipe=recipe)
    assert "is damaged" in capsys.readouterr().out
    assert torch.equal(weights(again.model), weights(first.model))


@pytest.mark.parametrize("damage", ["last bytes zeroed", "step beyond the end"])
def test_a_state_that_was_changed_is_not_taken_for_whole(damage: str) -> None:
    file = ResumeFile("state")
    file.save({"x": torch.ones(4096)}, {"step": 1})
    content = file.path.read_bytes()
    assert file.load() is not None
    if damage == "last bytes zeroed":
        file.path.write_bytes(content[:-4096] + bytes(4096))
    else:
        at = content.index(b"1", content.index(b"step"))
        file.path.write_bytes(content[:at] + b"9" + content[at + 1 :])
    assert file.path.read_bytes() != content
    assert file.load() is None


def test_where_no_state_can_be_saved_training_does_not_begin(
    tiny: GoogLeNet, images: Images, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.Run, "train_step", lambda *_: pytest.fail("a step was made"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESUME_DIR", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"can't be written \(.*\); set RESUME_DIR to a folder that can$"):
        fit(tiny, images, images, recipe=recipe)
    monkeypatch.setenv("RESUME_DIR", str(tmp_path / "resume"))
    monkeypatch.setattr(resume.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"free in .*; free some, or set RESUME_DIR to another disk"):
        fit(tiny, images, images, recipe=recipe)


def test_zeros_stay_zero_through_fine_tuning(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    pruned, zeros = prune_weights(tiny, sparsity=0.8), RisingSparsity(0.8, 0.8, "global")
    tuned = fit(pruned, images, images, recipe=recipe, mask_schedule=zeros).model
    for before, after in zip(pruned.parameters(), tuned.parameters(), strict=True):
        if before.dim() > 1:
            assert torch.equal(before == 0, after == 0)
    assert not torch.equal(weights(pruned), weights(tuned))
    prune_weights(tuned, sparsity=0.9)  # what comes out can be pruned again


def test_rising_sparsity_ends_where_it_should_in_the_averaged_model(
    tiny: GoogLeNet, images: Images, recipe: Recipe
) -> None:
    rising = RisingSparsity(0.5, 0.8, "global")
    model = fit(prune_weights(tiny, sparsity=0.5), images, images, recipe=recipe, mask_schedule=rising).model
    layers = [weight for weight in model.parameters() if weight.dim() > 1]
    zeros = sum(int((weight == 0).sum()) for weight in layers) / sum(weight.numel() for weight in layers)
    assert zeros == pytest.approx(0.8, abs=1e-3)


def test_rising_sparsity_goes_on_to_identical_weights_after_a_stop(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train() -> GoogLeNet:
        return fit(tiny, images, images, recipe=recipe, mask_schedule=RisingSparsity(0.0, 0.8, "layer")).model

    with monkeypatch.context() as patch:
        stop_at(5, patch, signal.SIGTERM)
        with pytest.raises(SystemExit):
            train()
    resumed = train()
    for file in Path(os.environ["RESUME_DIR"]).glob("*.safetensors"):
        file.unlink()
    assert torch.equal(weights(resumed), weights(train()))


def test_curve_starts_with_the_error_before_the_first_step(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    curve = fit(tiny, images, images, recipe=recipe, evaluate_first=True).curve
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    assert [row["epoch"] for row in curve] == [0, 1, 2]
    assert curve[0]["val_error_pct"] == training.error_rate(tiny, pixels, labels, precision=torch.float32)


def test_divergence_is_an_error_that_names_the_remedy(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"must be finite, got .*; lower lr"):
        fit(tiny, images, images, recipe=recipe.model_copy(update={"lr": 1e30}))


def test_training_that_diverges_in_its_last_step_is_no_success(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    once = recipe.model_copy(update={"epochs": 1, "batch_size": 30, "warmup_epochs": 0, "lr": 1e45})
    with pytest.raises(ValueError, match=r"weights after the last step must be finite, got others; lower lr"):
        fit(tiny, images, images, recipe=once)


def test_fewer_images_than_a_batch_are_one_batch(tiny: GoogLeNet, images: Images, recipe: Recipe) -> None:
    trained = fit(tiny, images, images, recipe=recipe.model_copy(update={"batch_size": 1000}))
    assert trained.facts["num_steps"] == 2


def test_written_results_are_complete_and_the_state_is_gone(
    tiny: GoogLeNet, images: Images, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume_dir: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = fit(tiny, images, images, recipe=recipe, evaluate_first=True)
    assert list(resume_dir.iterdir())
    training.write_trained(trained, "base")
    assert not list(resume_dir.iterdir())
    assert Path("artifacts/models/base.safetensors").exists()
    curve = pd.read_csv("reports/curves/base.csv")
    assert curve.columns.tolist() == [
        "epoch", "train_loss", "val_error_pct", "image_size", "val_error_at_size_pct", "lr", "images_per_s",
    ]  # fmt: skip
    facts = json.loads(Path("artifacts/training/base.json").read_text())
    assert facts["num_train_images"] == 30 and facts["precision"] == "fp32"


def test_cuda_without_a_gpu_is_an_error(
    tiny: GoogLeNet, images: Images, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device must be auto or cpu on a machine without CUDA"):
        training.fit(tiny, images, images, compute=Compute(device="cuda"), recipe=recipe)


def test_more_processes_than_gpus_are_an_error_on_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto").type == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="at most one for each of the 2 GPUs of a machine, got 3; lower --nproc-per-"):
        pick_device("auto")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_training_runs_in_bf16(tiny: GoogLeNet, images: Images, recipe: Recipe, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    compute = Compute.model_validate({"device": device, "precision": "bf16"})
    trained = training.fit(tiny, images, images, compute=compute, recipe=recipe)
    assert trained.facts["precision"] == "bf16"
    assert {tensor.device.type for tensor in trained.model.state_dict().values()} == {"cpu"}
    assert weights(trained.model).isfinite().all()


@pytest.mark.parametrize(
    ("mix", "extras"),
    [("mixup", {}), ("cutmix", {"mask_schedule": RisingSparsity(start=0.1, end=0.5, scope="global")})],
)
def test_a_step_reads_nothing_back_from_its_device(
    tiny: GoogLeNet, images: Images, recipe: Recipe, demo: Params, monkeypatch: pytest.MonkeyPatch, mix: str,
    extras: dict[str, Any],
) -> None:  # fmt: skip
    # A tensor on the meta device has no values, so reading one, which makes a GPU wait, is an error there.
    monkeypatch.setattr(run, "pick_device", lambda _: torch.device("meta"))
    # That device lacks a fused SGD, autocast and the beta distribution.
    sgd = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda *args, **options: sgd(*args, **options | {"fused": False}))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "_sample_dirichlet", torch.rand_like)
    changes = {"trivial_augment": True, "mixup": 0.0, "cutmix": 0.0, mix: 0.5}
    settings = recipe.model_dump(exclude={"start"}) | {"augmentation": recipe.augmentation.model_copy(update=changes)}
    student = StudentRecipe.model_validate(settings | {"distillation": demo.finetune.distillation})
    training_run = run.Run(tiny, images, compute=CPU, recipe=student, teacher=tiny, **extras)
    training_run.train_step(0)
    assert training_run.loss_sum.is_meta and all(each.state for each in training_run.optimizers)


def test_automatic_precision_is_what_the_cpu_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flag=flag: {"avx512_bf16": flag})
        assert pick_precision("auto", torch.device("cpu")) == dtype
