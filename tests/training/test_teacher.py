"""Teacher logits that are kept in a file."""

from pathlib import Path

import pytest
import torch

from stages.lib.images import Images
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.schema import Compute, Params, StudentRecipe
from stages.lib.training import teacher
from stages.lib.training.step import Run
from stages.lib.training.teacher import TeacherLogits

CPU = Compute(device="cpu", precision="fp32")


@pytest.fixture
def recipe(demo: Params) -> StudentRecipe:
    """Six epochs of three steps, two views of each image, small images in the first half."""
    changes = {"epochs": 6, "batch_size": 10, "image_sizes": {8: 1, 16: 1}, "teacher_views": 2}
    return demo.finetune.model_copy(update=changes)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of the images of each question to the teacher."""
    sizes: list[int] = []
    original = Run._ask_teacher

    def ask(self: Run, images: torch.Tensor) -> torch.Tensor:
        sizes.append(images.shape[-1])
        return original(self, images)

    monkeypatch.setattr(Run, "_ask_teacher", ask)
    return sizes


def trained(tiny: GoogLeNet, images: Images, recipe: StudentRecipe, *, start: int = 0) -> Run:
    run = Run(tiny, images, recipe=recipe, compute=CPU, teacher=tiny)
    for step in range(start, run.batches.num_steps):
        run.train_step(step)
    return run


def test_each_view_of_a_size_is_asked_for_once_and_never_again(
    tiny: GoogLeNet, images: Images, recipe: StudentRecipe, asked: list[int]
) -> None:
    first = trained(tiny, images, recipe).tensors()
    assert asked == [8] * 6 + [16] * 6  # two views of three batches, where 18 steps were made
    again = trained(tiny, images, recipe).tensors()
    assert len(asked) == 12
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_views_come_again_and_without_them_every_epoch_is_another(
    tiny: GoogLeNet, images: Images, recipe: StudentRecipe
) -> None:
    whole = recipe.model_copy(update={"image_sizes": {8: 1}})
    for views, same in ((2, True), (0, False)):
        run = Run(tiny, images, recipe=whole.model_copy(update={"teacher_views": views}), compute=CPU)
        one, other = (run.batches.batch(step)[0] for step in (1, 7))
        assert torch.equal(one, other) == same


def test_kept_logits_are_those_of_the_teacher_within_half_precision(
    tiny: GoogLeNet, images: Images, recipe: StudentRecipe
) -> None:
    run = trained(tiny, images, recipe)
    assert run._teacher_logits is not None
    pixels, _ = run.batches.batch(7)
    kept = run._teacher_logits.read(7, pixels.shape[-1])
    assert kept is not None and torch.allclose(kept, tiny(pixels), rtol=2e-3, atol=1e-3)


def test_another_teacher_is_asked_anew(
    tiny: GoogLeNet, images: Images, recipe: StudentRecipe, asked: list[int]
) -> None:
    trained(tiny, images, recipe)
    with torch.no_grad():
        tiny.linear.bias += 1
    trained(tiny, images, recipe)
    assert len(asked) == 24


def test_a_batch_that_was_half_written_is_not_there() -> None:
    logits = TeacherLogits("name", views=1, steps_per_epoch=2, batch_size=4, num_classes=3)
    assert logits.read(0, 8) is None
    logits._file(8)[0, :2] = 1
    assert logits.read(0, 8) is None
    assert torch.equal(logits.write(0, 8, torch.ones(4, 3)), torch.ones(4, 3))
    assert logits.read(2, 8) is not None and logits.read(1, 8) is None and logits.read(0, 16) is None


def test_a_file_of_another_shape_is_refused_and_one_unused_for_long_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    TeacherLogits("name", views=1, steps_per_epoch=2, batch_size=4, num_classes=3).read(0, 8)
    with pytest.raises(ValueError, match=r"name-8.npy must hold teacher logits of shape .*; delete it"):
        TeacherLogits("name", views=2, steps_per_epoch=2, batch_size=4, num_classes=3).read(0, 8)
    (path,) = tmp_path.rglob("name-8.npy")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"name-8.npy must hold teacher logits, got a broken file .*; delete it"):
        TeacherLogits("name", views=1, steps_per_epoch=2, batch_size=4, num_classes=3).read(0, 8)
    monkeypatch.setattr(teacher, "UNUSED_S", -1)
    TeacherLogits("other", views=1, steps_per_epoch=2, batch_size=4, num_classes=3).read(0, 8)
    assert not list(tmp_path.rglob("name-8.npy"))
