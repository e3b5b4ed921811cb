"""Training speed of our loop against the customary one, side by side: `make bench-train`.

The customary loop is a DataLoader with workers, torchvision's transforms image by image, the default memory layout and
fp32. Both train the full GoogLeNet by SGD on the same random 32 x 32 images with crops and flips, in batches of the
device's preset. Each has a process of its own, since ours changes how its process keeps memory. They take turns, so
that a busy moment of the machine hits both; a ratio is taken in each round, and the spread is over rounds. A row of the
CPU's table is the loop as its preset uses it, by Muon and with small images first: what an epoch costs there, averaged
over the run. The last rows say how far there is to go: large matrix products of as many multiply-accumulates as a step
has, counted as its images.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from stages.lib.costs import count_macs
from stages.lib.images import Images
from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
from stages.lib.params import load_params
from stages.lib.schema import Compute
from stages.lib.stage import one_line_errors
from stages.lib.training.devices import pick_precision
from stages.lib.training.step import Run

ROUNDS = 5
STEPS = {"cpu": 4, "cuda": 40}  # of a round
STEPS_OF_PRESET = 10  # of a round, evenly spaced over a run, so that each image size has its share
NUM_IMAGES = 128 * 200
NUM_WORKERS = min(8, os.cpu_count() or 1)
SIDE = 4096  # of the matrices
CUSTOMARY = "customary, fp32"
AS_GRAPH = "ours, bf16, as a CUDA graph"
PRESET = "ours, as in cpu.yaml"

CPU_RECIPE = load_params(Path("presets/cpu.yaml"), complete=False).train.model_copy(update={"epochs": 100})
GPU_RECIPE = load_params(Path("presets/gpu.yaml"), complete=False).train.model_copy(
    update={"augmentation": CPU_RECIPE.augmentation}
)
RECIPES = {"cpu": CPU_RECIPE, "cuda": GPU_RECIPE}  # with the augmentation of the customary loop


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Images one by one, as most code has them."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """An image, float (3, 32, 32) in [0, 1], and its label."""
        return self.transform(self.images.pixels[index]), int(self.images.labels[index])


def customary(images: Images, device: torch.device) -> Callable[[], None]:
    """A function that makes one step of the customary loop."""
    model = new_model().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loader = DataLoader(
        Pictures(images),
        RECIPES[device.type].batch_size,
        shuffle=True,
        num_workers=NUM_WORKERS,
        pin_memory=device.type == "cuda",
    )

    def endless() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        pixels, labels = (tensor.to(device, non_blocking=True) for tensor in next(batches))
        loss = nn.functional.cross_entropy(model(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ours(images: Images, compute: Compute) -> Callable[[], None]:
    """A function that makes one step of our loop, on whole images, by SGD, as in the customary loop."""
    recipe = RECIPES[compute.device].model_copy(update={"image_sizes": {32: 1}, "muon_lr": None})
    run = Run(new_model(), images, recipe=recipe, compute=compute)
    steps = iter(range(run.batches.num_steps))
    return lambda: run.train_step(next(steps))


def ours_as_preset(images: Images, _device: torch.device) -> Callable[[], None]:
    """A function that makes one step of our loop, on images of the preset's sizes in turns."""
    # One for each size, since a run resizes all images whenever the size changes, in training twice in all.
    compute = Compute(device="cpu")
    runs = {size: Run(new_model(), images, recipe=CPU_RECIPE, compute=compute) for size in CPU_RECIPE.image_sizes}
    first = next(iter(runs.values()))
    steps = itertools.cycle(range(0, first.batches.num_steps, first.batches.num_steps // STEPS_OF_PRESET))

    def train_step() -> None:
        step = next(steps)
        runs[first.batches.image_size(step)].train_step(step)

    return train_step


def products(device: torch.device, precision: torch.dtype) -> Callable[[], None]:
    """A function that multiplies two matrices, with the multiply-accumulates of one step: thrice the forward pass's."""
    macs = 3 * RECIPES[device.type].batch_size * count_macs(new_model().eval(), torch.zeros(1, 3, 32, 32))
    left = torch.randn(SIDE, SIDE, dtype=precision, device=device)
    right = torch.randn(SIDE, macs // SIDE**2, dtype=precision, device=device)
    result = left @ right

    def step() -> None:
        torch.mm(left, right, out=result)

    return step


def new_model() -> GoogLeNet:
    """The full network."""
    torch.manual_seed(0)
    return GoogLeNet(Architecture(scaled_widths(1.0), num_classes=100, stem_pool=True, dropout=0.0))


def images_per_s(step: Callable[[], None], device: torch.device, num_steps: int) -> float:
    """Speed over one round."""
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return num_steps * RECIPES[device.type].batch_size / (time.perf_counter() - start)


def random_images() -> Images:
    """The same in every process."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8)
    return Images(pixels, rng.integers(0, 100, NUM_IMAGES), tuple(map(str, range(100))))


LOOPS: dict[str, Callable[[Images, torch.device], Callable[[], None]]] = {
    CUSTOMARY: customary,
    "ours, fp32": lambda images, device: ours(images, Compute(device=device.type, precision="fp32", cuda_graph=False)),
    "ours, bf16": lambda images, device: ours(images, Compute(device=device.type, precision="bf16", cuda_graph=False)),
    AS_GRAPH: lambda images, device: ours(images, Compute(device=device.type, precision="bf16")),
    PRESET: ours_as_preset,
    "matrix products, fp32": lambda _, device: products(device, torch.float32),
    "matrix products, bf16": lambda _, device: products(device, torch.bfloat16),
}


def serve(loop: str, device_name: str, connection: Connection) -> None:
    """Make a round and send its speed, each time one is asked for."""
    device = torch.device(device_name)
    step = LOOPS[loop](random_images(), device)
    num_steps = STEPS_OF_PRESET if loop == PRESET else STEPS[device.type]
    with suppress(EOFError):  # the parent has what it wants
        while True:
            connection.recv()
            connection.send(images_per_s(step, device, num_steps))


def measure(device: str) -> dict[str, list[float]]:
    """Images/s of each loop in each round."""
    context = multiprocessing.get_context("spawn")
    connections = {}
    native = pick_precision("auto", torch.device(device)) == torch.bfloat16
    unwanted = AS_GRAPH if device == "cpu" else PRESET
    # Emulated, bf16 takes minutes a step.
    loops = [loop for loop in LOOPS if loop != unwanted and (native or "bf16" not in loop)]
    for loop in loops:
        connections[loop], theirs = context.Pipe()
        context.Process(target=serve, args=(loop, device, theirs)).start()
        theirs.close()  # so that the death of the process ends the connection
    try:
        for connection in connections.values():  # a round to warm up, all at once
            connection.send(None)
        for connection in connections.values():
            connection.recv()
        speeds: dict[str, list[float]] = {loop: [] for loop in loops}
        for _ in range(ROUNDS):
            for loop, connection in connections.items():
                connection.send(None)
                speeds[loop].append(connection.recv())
    finally:
        for connection in connections.values():
            connection.close()  # which ends the processes
    return speeds


def print_table(device: str, speeds: dict[str, list[float]]) -> None:
    """Print the median speed of each loop, and its ratio to the customary one's."""
    rows = []
    for loop, values in speeds.items():
        ratios = [value / other for value, other in zip(values, speeds[CUSTOMARY], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append((loop, f"{statistics.median(values):,.0f}", spread))
    name = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    steps = f"{STEPS[device]} steps" + (f" ({STEPS_OF_PRESET} as in cpu.yaml)" if PRESET in speeds else "")
    batch_size = RECIPES[device].batch_size
    print(f"\n{device}, {name}: batches of {batch_size}, {ROUNDS} rounds of {steps} in turns, {NUM_WORKERS} workers")
    print(tabulate(rows, headers=("loop", "images/s", "ratio (spread)"), tablefmt="github", disable_numparse=True))


def main() -> None:
    """Print a table for each device there is."""
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        print_table(device, measure(device))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with one_line_errors("bench-train"):
        main()
