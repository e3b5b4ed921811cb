"""`make bench-train`: what its loops do, and how their speeds are told."""

from collections import Counter

import pytest
import torch

from benchmarks import train
from stages.lib.costs import count_macs
from stages.lib.images import Images
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.schema import Compute
from stages.lib.training.step import Run

CPU = torch.device("cpu")


@pytest.fixture
def batches_of_ten(tiny: GoogLeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark with a tiny network, tiny batches and no workers."""
    monkeypatch.setattr(train, "new_model", lambda: tiny)
    monkeypatch.setattr(train, "NUM_WORKERS", 0)
    monkeypatch.setattr(train, "CPU_RECIPE", train.CPU_RECIPE.model_copy(update={"batch_size": 10}))
    monkeypatch.setitem(train.RECIPES, "cpu", train.CPU_RECIPE)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Each `Run` that the benchmark makes."""
    made: list[Run] = []

    def make(*args: object, **options: object) -> Run:
        made.append(Run(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(train, "Run", make)
    return made


@pytest.mark.usefixtures("batches_of_ten")
def test_the_customary_loop_trains_the_network(tiny: GoogLeNet, images: Images) -> None:
    before = tiny.linear.weight.clone()
    step = train.customary(images, CPU)
    for _ in range(4):  # 30 images are three batches: it starts again after them
        step()
    assert not torch.equal(tiny.linear.weight, before)


@pytest.mark.usefixtures("batches_of_ten")
def test_our_loop_trains_on_whole_images_in_the_precision_asked_for(
    tiny: GoogLeNet, images: Images, runs: list[Run]
) -> None:
    train.ours(images, Compute(device="cpu", precision="fp32"))()
    batches = runs[0].batches
    assert [batches.image_size(step) for step in (0, batches.num_steps - 1)] == [32, 32]
    assert runs[0].precision == torch.float32
    assert not torch.equal(runs[0].model.linear.weight, tiny.linear.weight)


@pytest.mark.usefixtures("batches_of_ten")
def test_a_round_as_in_the_preset_has_each_image_size_by_its_share(
    images: Images, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = train.ours_as_preset(images, CPU)
    sizes: Counter[int] = Counter()
    for run in runs:
        monkeypatch.setattr(run, "train_step", lambda number, run=run: sizes.update([run.batches.image_size(number)]))
    for _ in range(2 * train.STEPS_OF_PRESET):
        step()
    shares = train.CPU_RECIPE.image_sizes
    assert sizes == {size: round(2 * train.STEPS_OF_PRESET * share) for size, share in shares.items()}


@pytest.mark.usefixtures("batches_of_ten")
def test_the_products_have_the_multiply_accumulates_of_a_step(tiny: GoogLeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[torch.Size, torch.Size]] = []
    monkeypatch.setattr(train, "SIDE", 64)
    monkeypatch.setattr(torch, "mm", lambda left, right, **_: shapes.append((left.shape, right.shape)))
    train.products(CPU, torch.float32)()
    (rows, inner), (_, columns) = shapes[0]
    macs = 3 * 10 * count_macs(tiny, torch.zeros(1, 3, 32, 32))
    assert 0 <= macs - rows * inner * columns < rows * inner


def test_speed_counts_the_images_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter((100.0, 102.0))
    monkeypatch.setattr(train.time, "perf_counter", lambda: next(moments))
    calls: list[int] = []
    assert train.images_per_s(lambda: calls.append(1), CPU, 6) == 6 * train.CPU_RECIPE.batch_size / 2
    assert len(calls) == 6


def test_ratios_are_taken_in_each_round(capsys: pytest.CaptureFixture[str]) -> None:
    train.print_table("cpu", {train.CUSTOMARY: [10, 20, 40], "ours, fp32": [20, 20, 120]})
    row = capsys.readouterr().out.splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["ours, fp32", "20", "2.00 (1.00 to 3.00)"]
