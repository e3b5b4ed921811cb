"""TrivialAugment against torchvision's operations, one by one, and as a whole."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as reference

from stages.lib.training import trivialaugment
from stages.lib.training.trivialaugment import MOVES, NUM_OPERATIONS, move, trivial_augment

GREY = torch.full((3, 1, 1), 0.5)
NAMES = ["shear x", "shear y", "translate x", "translate y", "rotate"]
AMOUNTS = [-1.0, -0.4, 0.0, 0.3, 1.0]


@pytest.fixture
def pictures() -> Tensor:
    """Blobs in 8-bit levels, float (6, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def as_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def expected(name: str, images: Tensor, amount: float) -> Tensor:
    """What torchvision makes of 8-bit images."""
    match name:
        case "brightness":
            return reference.adjust_brightness(images, 1 + amount)
        case "color":
            return reference.adjust_saturation(images, 1 + amount)
        case "contrast":
            return reference.adjust_contrast(images, 1 + amount)
        case "sharpness":
            return reference.adjust_sharpness(images, 1 + amount)
        case "posterize":
            return reference.posterize(images, 8 - round(6 * abs(amount)))
        case "solarize":
            return reference.solarize(images, 255 * (1 - abs(amount)))
        case "autocontrast":
            return reference.autocontrast(images)
        case "equalize":
            return reference.equalize(images)
        case _:
            raise ValueError(name)


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("operation", trivialaugment.COLORS, ids=lambda operation: operation.__name__)
def test_colour_operations_are_torchvisions(
    operation: trivialaugment.Operation, amount: float, pictures: Tensor
) -> None:
    ours = operation(pictures, torch.full((6,), amount))
    theirs = expected(operation.__name__, as_bytes(pictures), amount)
    assert ((255 * ours) - theirs.float()).abs().max() <= 2  # torchvision rounds to whole levels on its way


def test_an_even_picture_survives_autocontrast_and_equalize() -> None:
    even = torch.full((2, 3, 8, 8), 0.2)
    for operation in (trivialaugment.autocontrast, trivialaugment.equalize):
        assert torch.equal(operation(even, torch.zeros(2)), even)


@pytest.mark.parametrize("amount", [-0.8, 0.25])
@pytest.mark.parametrize("name", NAMES)
def test_geometric_operations_are_torchvisions(name: str, amount: float, pictures: Tensor) -> None:
    settings: dict[str, object] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    match name:
        case "shear x":
            settings["shear"] = [math.degrees(math.atan(0.99 * amount)), 0.0]
        case "shear y":
            settings["shear"] = [0.0, math.degrees(math.atan(0.99 * amount))]
        case "translate x":
            settings["translate"] = [-round(32 * amount), 0]
        case "translate y":
            settings["translate"] = [0, -round(32 * amount)]
        case "rotate":
            settings["angle"] = -135 * amount
    theirs = reference.affine(pictures, **settings, fill=[0.5])  # type: ignore[arg-type]
    matrices = torch.stack(MOVES[NAMES.index(name)](torch.full((6,), amount)), dim=1).view(6, 2, 3)
    ours = move(pictures, matrices, fill=GREY)
    different = ((ours - theirs).abs().amax(1) > 1e-4).float().mean()
    assert different < 0.01  # where the nearest pixel is a tie
    assert torch.allclose(move(pictures, torch.eye(2, 3).expand(6, 2, 3), fill=GREY), pictures, atol=1e-6)


def test_what_moves_in_has_the_colour_it_was_given(pictures: Tensor) -> None:
    half = torch.stack(MOVES[2](torch.full((6,), 0.5)), dim=1).view(6, 2, 3)
    moved = move(pictures, half, fill=torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
    assert torch.allclose(moved[..., :16], pictures[..., 16:], atol=1e-6)
    assert torch.allclose(moved[..., 16:], torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).expand(6, 3, 32, 16))


def test_every_operation_is_as_likely_for_every_image(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def mark(number: int) -> trivialaugment.Operation:
        return lambda images, _amount: torch.full_like(images, 2.0 + number)

    monkeypatch.setattr(trivialaugment, "COLORS", tuple(mark(i) for i in range(8)))
    torch.manual_seed(0)
    first = torch.stack([trivial_augment(pictures, fill=GREY)[0, 0, 0, 0] for _ in range(1400)])
    for number in range(8):
        times = int((first == 2.0 + number).sum())
        assert 60 < times < 145  # 100 expected, standard deviation 9.6


def test_every_image_stays_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trivialaugment, "COLORS", (lambda images, _amount: images,) * 8)
    images = (torch.arange(28.0) / 28).view(28, 1, 1, 1).expand(28, 3, 8, 8)  # each of a grey of its own
    augmented = trivial_augment(images, fill=torch.full((3, 1, 1), 2.0))
    moved_in = torch.isclose(augmented, torch.tensor(2.0))
    assert (torch.isclose(augmented, images, atol=1e-6) | moved_in).all()
    assert moved_in.any()


def test_strengths_reach_both_ends(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    amounts: list[float] = []

    def record(images: Tensor, amount: Tensor) -> Tensor:
        amounts.extend(amount.tolist())
        return images

    monkeypatch.setattr(trivialaugment, "COLORS", (record,) * 8)
    torch.manual_seed(0)
    for _ in range(200):
        trivial_augment(pictures, fill=GREY)
    assert min(amounts) == -1 and max(amounts) == 1 and 0 in amounts


def test_the_seed_alone_decides(pictures: Tensor) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(trivial_augment(pictures, fill=GREY))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("count", [1, 5, NUM_OPERATIONS, 33])
def test_shape_range_layout_and_input_are_kept(count: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(count, 3, 16, 16).to(memory_format=torch.channels_last)
    before = images.clone()
    augmented = trivial_augment(images, fill=GREY)
    assert augmented.shape == images.shape and augmented.dtype == images.dtype
    assert augmented.is_contiguous(memory_format=torch.channels_last)
    assert augmented.min() >= 0 and augmented.max() <= 1
    assert torch.equal(images, before)
