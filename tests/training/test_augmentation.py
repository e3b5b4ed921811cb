"""Augmentation of whole batches."""

from typing import Any

import numpy as np
import pytest
import torch

from stages.lib.images import Images
from stages.lib.schema import Params
from stages.lib.training import augmentation

CPU = torch.device("cpu")


def test_without_padding_a_crop_is_the_image(images: Images) -> None:
    padded = augmentation.resident(images.pixels, size=32, padding=0, device=CPU)
    batch = augmentation.crop(padded, torch.tensor([3, 1]), size=32, flip=False)
    expected = images.pixels[[3, 1]].transpose(0, 3, 1, 2) / np.float32(255)
    assert torch.equal(batch, torch.from_numpy(expected))
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_every_crop_is_a_window_of_the_padded_image_mirrored_or_not(images: Images) -> None:
    padded = augmentation.resident(images.pixels[:2], size=32, padding=1, device=CPU)
    batch = augmentation.crop(padded, torch.tensor([0] * 200), size=32, flip=True)
    image = padded[0].permute(2, 0, 1).float() / 255
    windows = [image[:, y : y + 32, x : x + 32] for y in range(3) for x in range(3)]
    windows += [window.flip(2) for window in windows]
    seen = {next(i for i, window in enumerate(windows) if torch.equal(window, crop)) for crop in batch}
    assert len(seen) == 18


def test_resized_images_keep_their_mean(images: Images) -> None:
    resized = augmentation.resident(images.pixels, size=16, padding=2, device=CPU)
    assert resized.shape == (30, 20, 20, 3)
    assert resized.dtype == torch.uint8
    assert abs(resized[:, 2:-2, 2:-2].float().mean().item() - images.pixels.mean()) < 1


def test_cutout_covers_one_square_with_the_colour() -> None:
    torch.manual_seed(0)
    fill = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    cut = augmentation.cutout(torch.ones(200, 3, 32, 32), side=8, fill=fill)
    covered = (cut == fill).all(dim=1).sum(dim=(1, 2))
    assert covered.max() == 64
    assert covered.min() >= 16  # at a corner
    assert ((cut == 1) | (cut == fill)).all()


def test_mixup_blends_images_and_targets_alike() -> None:
    torch.manual_seed(0)
    targets = torch.eye(6)
    images = targets.view(6, 6, 1, 1).expand(6, 6, 4, 4).clone()  # an image that shows its target
    mixed, mixed_targets = augmentation.mixup(images, targets, alpha=1.0)
    assert torch.allclose(mixed[:, :, 0, 0], mixed_targets)
    assert torch.allclose(mixed_targets.sum(1), torch.ones(6))
    assert not torch.equal(mixed_targets, targets)


def test_cutmix_targets_are_the_shares_of_the_area() -> None:
    torch.manual_seed(0)
    targets = torch.eye(6)
    images = targets.view(6, 6, 1, 1).expand(6, 6, 32, 32).clone()
    mixed, mixed_targets = augmentation.cutmix(images, targets, alpha=1.0)
    assert torch.allclose(mixed.mean(dim=(2, 3)), mixed_targets, atol=1e-6)
    assert set(mixed.unique().tolist()) == {0.0, 1.0}


def test_boxes_of_cutmix_have_the_share_of_the_area_that_was_drawn() -> None:
    torch.manual_seed(0)
    targets = torch.eye(2).repeat(2000, 1)
    _, mixed = augmentation.cutmix(torch.zeros(4000, 1, 32, 32), targets, alpha=50.0)  # draws shares around a half
    kept = mixed.max(1).values[mixed.max(1).values < 1]  # of pairs of two classes
    assert kept.mean() == pytest.approx(2 / 3, abs=0.03)  # a box of half the area, cut off at the border


def test_mixing_weights_are_drawn_from_a_symmetric_beta_distribution() -> None:
    torch.manual_seed(0)
    weights = augmentation._beta(0.2, 20_000, CPU)
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    assert weights.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)


def test_the_border_mirrors_the_image(images: Images) -> None:
    padded = augmentation.resident(images.pixels, size=32, padding=2, device=CPU)
    assert torch.equal(padded[:, 0], padded[:, 4])
    assert torch.equal(padded[:, :, -1], padded[:, :, -5])


def test_smaller_images_are_averages(images: Images) -> None:
    stripes = np.zeros_like(images.pixels)
    stripes[:, :, ::4] = 200  # between the pixels that a plain bilinear resize would read
    resized = augmentation.resident(stripes, size=8, padding=0, device=CPU)
    assert abs(resized[:, :, 1:-1].float() - 50).max() < 20


def test_each_augmentation_gets_its_own_settings(images: Images, demo: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    fill, seen = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), set()

    def coloured(name: str) -> Any:
        def record(batch: torch.Tensor, *, fill: torch.Tensor, side: float | None = None) -> torch.Tensor:
            seen.add((name, side, fill[1].item()))
            return batch

        return record

    def mixing(name: str) -> Any:
        def record(batch: torch.Tensor, targets: torch.Tensor, *, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
            seen.add((name, alpha))
            return batch, targets

        return record

    for name, make in (("trivial_augment", coloured), ("cutout", coloured), ("mixup", mixing), ("cutmix", mixing)):
        monkeypatch.setattr(augmentation, name, make(name))
    changes = {"trivial_augment": True, "cutout": 8, "mixup": 0.2, "cutmix": 1.0}
    recipe = demo.train.augmentation.model_copy(update=changes)
    padded = augmentation.resident(images.pixels, size=16, padding=0, device=CPU)
    labels = torch.from_numpy(images.labels)
    torch.manual_seed(0)
    for _ in range(20):
        augmentation.augment(
            padded, labels, torch.arange(30), size=16, num_classes=3, recipe=recipe, mix=True, fill=fill
        )
    second = fill[1].item()
    assert seen == {
        ("trivial_augment", None, second), ("cutout", 4.0, second), ("mixup", 0.2), ("cutmix", 1.0)
    }  # fmt: skip


def test_mixing_stops_when_told(images: Images, demo: Params) -> None:
    recipe = demo.train.augmentation.model_copy(update={"mixup": 0.2, "cutmix": 1.0, "cutout": 8})
    padded = augmentation.resident(images.pixels, size=32, padding=2, device=CPU)
    labels = torch.from_numpy(images.labels)
    for mix, one_hot in ((False, True), (True, False)):
        torch.manual_seed(0)
        batch, targets = augmentation.augment(
            padded,
            labels,
            torch.arange(30),
            size=32,
            num_classes=3,
            recipe=recipe,
            mix=mix,
            fill=torch.zeros(3, 1, 1),
        )
        assert batch.shape == (30, 3, 32, 32)
        assert torch.allclose(targets.sum(1), torch.ones(30))
        assert bool((targets.max(1).values == 1).all()) is one_hot
