"""The training loop: `fit` trains or fine-tunes a model, and goes on exactly where it was stopped.

All randomness comes from (seed, epoch, step) and the learning rate from the step, so the state to keep is small: the
weights, their moving average, the momentum, and the step.
"""

import copy
import inspect
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.lib import augmentation, googlenet, schedule
from stages.lib.checkpoint import save_model
from stages.lib.data import Images
from stages.lib.devices import keep_freed_memory, pick_device, pick_precision
from stages.lib.files import replacing
from stages.lib.googlenet import GoogLeNet
from stages.lib.params import Recipe
from stages.lib.progress import Progress
from stages.lib.resume import ResumeFile, fingerprint, stop_request

SAVE_EVERY_S = 120


Curve = list[dict[str, Any]]


@dataclass(frozen=True)
class Trained:
    """What `fit` gives back.

    Attributes:
        model: The moving average of the weights at the last step (no epoch is picked), on the CPU.
        curve: A row for each epoch: epoch, train_loss, val_error_pct, lr, images_per_s.
        facts: What it took: seconds, num_steps, num_train_images, num_val_images, device, precision, torch.
        resume_file: To be deleted once the model is safely written.
    """

    model: GoogLeNet
    curve: Curve
    facts: dict[str, Any]
    resume_file: ResumeFile


@torch.no_grad()
def error_rate(model: nn.Module, images: Tensor, labels: Tensor, *, precision: torch.dtype) -> float:
    """Top-1 error in percent on `images`, uint8 (N, 32, 32, 3)."""
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    for batch, expected in zip(images.split(500), labels.split(500), strict=True):
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            logits = model(batch.permute(0, 3, 1, 2).float().div_(255))  # (B, num_classes)
        correct += (logits.argmax(1) == expected).sum()
    model.train(was_training)
    return 100 * (1 - correct.item() / len(labels))


class _Run:
    """The tensors of one training, on its device."""

    def __init__(self, model: GoogLeNet, train: Images, *, recipe: Recipe, keep_zeros: bool) -> None:
        self.recipe = recipe
        self.device = pick_device(recipe.device)
        self.precision = pick_precision(recipe.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.batch_size = min(recipe.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.batch_size
        self.num_steps = recipe.epochs * self.steps_per_epoch

        self.model = copy.deepcopy(model).to(self.device).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        weights = [weight for weight in self.model.parameters() if weight.dim() > 1]
        others = [weight for weight in self.model.parameters() if weight.dim() <= 1]
        # Masks of the weights that stay zero; a list of detached views, as the foreach functions want it.
        self.masked = [weight.detach() for weight in weights] if keep_zeros else []
        self.masks = [(weight != 0).to(weight.dtype) for weight in self.masked]
        self.optimizer = torch.optim.SGD(
            [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
        )
        self.loss_sum = torch.zeros((), device=self.device)  # of the epoch so far

        self._pixels = train.pixels
        self._labels = torch.from_numpy(train.labels).to(self.device)
        self._num_classes = len(train.classes)
        self._images, self._size = torch.empty(0), 0
        self._order, self._epoch = torch.empty(0), -1

    def lr(self, step: int) -> float:
        return schedule.learning_rate(step, recipe=self.recipe, steps_per_epoch=self.steps_per_epoch)

    def size(self, step: int) -> int:
        return schedule.image_size(step, recipe=self.recipe, steps_per_epoch=self.steps_per_epoch)

    def train_step(self, step: int) -> None:
        images, targets = self._batch(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.model(images)  # (B, num_classes)
        loss = functional.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.loss_sum += loss.detach()
        with torch.no_grad():
            if self.masked:
                torch._foreach_mul_(self.masked, self.masks)
            # The average warms up: early weights are worth little.
            decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
            pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
            floats = [(average, current) for average, current in pairs if average.is_floating_point()]
            torch._foreach_lerp_([average for average, _ in floats], [current for _, current in floats], 1 - decay)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images and targets of a step, the same whenever it is taken."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng((self.recipe.seed, epoch)).permutation(len(self._labels))
            self._order, self._epoch = torch.from_numpy(order).to(self.device), epoch
        size = self.size(step)
        padding = round(self.recipe.augmentation.crop_padding * size / 32)
        if size != self._size:
            self._images = augmentation.resident(self._pixels, size=size, padding=padding, device=self.device)
            self._size = size
        # Dropout draws from the same generator, so this covers the whole step.
        torch.manual_seed(np.random.SeedSequence((self.recipe.seed, epoch, position)).generate_state(1)[0].item())
        return augmentation.augment(
            self._images,
            self._labels,
            self._order[position * self.batch_size : (position + 1) * self.batch_size],
            size=size,
            num_classes=self._num_classes,
            recipe=self.recipe.augmentation,
            mix=epoch < self.recipe.epochs - self.recipe.augmentation.mix_off_epochs,
            fill=self.model.mean,
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on, as copies on the CPU."""
        named = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        named |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            if "momentum_buffer" in self.optimizer.state[parameter]:
                named[f"momentum.{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        named["loss_sum"] = self.loss_sum
        return {name: tensor.cpu().contiguous() for name, tensor in named.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "momentum": {}}
        for name, tensor in tensors.items():
            if name != "loss_sum":
                group, _, key = name.partition(".")
                groups[group][key] = tensor
        self.model.load_state_dict(groups["model"])
        self.average.load_state_dict(groups["average"])
        for name, parameter in self.model.named_parameters():
            if name in groups["momentum"]:
                buffer = torch.empty_like(parameter).copy_(groups["momentum"][name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.loss_sum.copy_(tensors["loss_sum"])


def fit(
    model: GoogLeNet,
    train: Images,
    val: Images,
    *,
    recipe: Recipe,
    keep_zeros: bool = False,
    evaluate_first: bool = False,
) -> Trained:
    """Train `model`, with a bar on a terminal, a line an epoch, and the time left.

    Args:
        model: Where to start; left as it is.
        train: Images to train on; an epoch's last incomplete batch is left out.
        val: Images for the validation error.
        keep_zeros: Whether weights that are zero stay zero (the masks of an unstructured pruned model).
        evaluate_first: Whether the curve starts with the validation error before the first step, as epoch 0.

    Raises:
        ValueError: If the device is missing, or training diverges.
        SystemExit: After SIGINT or SIGTERM; the same call then goes on from there.
    """
    run = _Run(model, train, recipe=recipe, keep_zeros=keep_zeros)
    resume_file = ResumeFile(_fingerprint(model, train, run))
    val_pixels = torch.from_numpy(val.pixels).to(run.device)
    val_labels = torch.from_numpy(val.labels).to(run.device)

    def val_error() -> float:
        return error_rate(run.average, val_pixels, val_labels, precision=run.precision)

    def save() -> None:
        resume_file.save(run.tensors(), {"step": step, "curve": curve, "seconds": seconds()})

    def seconds() -> float:
        return seconds_before + time.monotonic() - started

    step, curve, seconds_before, started = 0, Curve(), 0.0, time.monotonic()
    saved = resume_file.load()
    if saved:
        tensors, state = saved
        run.restore(tensors)
        step, curve, seconds_before = state["step"], state["curve"], state["seconds"]
        print(f"going on from step {step} of {run.num_steps} ({resume_file.path})", flush=True)
    elif evaluate_first:
        curve.append({"epoch": 0, "train_loss": None, "val_error_pct": val_error(), "lr": 0.0, "images_per_s": None})

    costs = [run.size(step) ** 2 for step in range(run.num_steps)]
    last_save = time.monotonic()
    with stop_request() as stop, Progress(costs, first_step=step, epochs=recipe.epochs) as progress:
        while step < run.num_steps and not stop():
            run.train_step(step)
            progress.advance(step, images=run.batch_size)
            step += 1
            epoch, position = divmod(step, run.steps_per_epoch)
            if progress.wants_loss():
                progress.show(loss=run.loss_sum.item() / (position or run.steps_per_epoch))
            if position == 0:
                loss = run.loss_sum.item() / run.steps_per_epoch
                if not math.isfinite(loss):
                    raise ValueError(f"the loss of epoch {epoch} must be finite, got {loss}; lower lr ({recipe.lr})")
                run.loss_sum.zero_()
                images_per_s = progress.images_per_s()
                row: dict[str, Any] = {
                    "epoch": epoch,
                    "train_loss": loss,
                    "val_error_pct": val_error(),
                    "lr": run.lr(step - 1),
                    "images_per_s": images_per_s,
                }
                progress.report(**row)
                progress.start_epoch()
                curve.append(row)
            if position == 0 or time.monotonic() - last_save > SAVE_EVERY_S:
                save()
                last_save = time.monotonic()
        if stop.signal is not None:
            save()
            print(f"stopped at step {step} of {run.num_steps}; the same command goes on from there", flush=True)
            raise SystemExit(128 + stop.signal)
    facts = {
        "seconds": round(seconds()),
        "num_steps": run.num_steps,
        "num_train_images": len(train),
        "num_val_images": len(val),
        "device": torch.cuda.get_device_name()
        if run.device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "precision": "bf16" if run.precision == torch.bfloat16 else "fp32",
        "torch": torch.__version__,
    }
    return Trained(run.average.requires_grad_().cpu(), curve, facts, resume_file)


def write_trained(trained: Trained, name: str) -> None:
    """Write the model called `name`, its curve and its facts where later stages read them."""
    curve = pd.DataFrame(trained.curve).round({"train_loss": 4, "val_error_pct": 2, "lr": 6, "images_per_s": 1})
    with replacing(Path(f"reports/curves/{name}.csv")) as path:
        curve.to_csv(path, index=False)
    with replacing(Path(f"artifacts/training/{name}.json")) as path:
        path.write_text(json.dumps(trained.facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_model(trained.model, Path(f"artifacts/models/{name}.safetensors"))
    trained.resume_file.delete()


def _fingerprint(model: GoogLeNet, train: Images, run: _Run) -> str:
    """A name for this training: its code, parameters, images, device and first weights."""
    code = "".join(map(inspect.getsource, (sys.modules[__name__], augmentation, googlenet, schedule)))
    settings = (code, run.recipe.model_dump_json(), model.architecture, run.device, run.precision, len(run.masks))
    weights = [tensor.contiguous().numpy().tobytes() for tensor in model.state_dict().values()]
    return fingerprint(repr(settings).encode(), train.pixels.tobytes(), train.labels.tobytes(), *weights)
