"""The training loop: `fit` trains or fine-tunes a model, and goes on exactly where it was stopped.

All randomness comes from (seed, epoch, step) and the learning rate from the step, so there is little state to keep.
"""

import inspect
import math
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from stages.lib.artifacts import curve_path, model_path, replacing, training_path, write_json
from stages.lib.images import Images
from stages.lib.network.checkpoint import save_model
from stages.lib.network.googlenet import GoogLeNet
from stages.lib.schema import Compute, Recipe, StudentRecipe
from stages.lib.training.augmentation import resident
from stages.lib.training.distributed import any_of_them, from_first, num_processes, rank
from stages.lib.training.progress import Progress
from stages.lib.training.resume import ResumeFile, StopRequest, code_of, fingerprint, stop_request
from stages.lib.training.step import MaskSchedule, Run

PIXELS_OF_AN_IMAGE = 190  # take as long as what an image costs whatever its size, as measured on a CPU
SAVE_EVERY_S = 120
SAVING_SHARE = 0.05  # the most of the time that saving at epoch ends may take: on a GPU an epoch can take two seconds

Curve = list[dict[str, Any]]


@dataclass(frozen=True)
class Trained:
    """What `fit` gives back.

    Attributes:
        model: The moving average of the weights at the last step (no epoch is picked), on the CPU.
        curve: A row for each epoch, the last one whole or not: epoch, train_loss, val_error_pct, image_size (of the
            last step), val_error_at_size_pct (on validation images of that size), lr, images_per_s.
        facts: What it took: seconds, num_steps, num_train_images, num_val_images, device, precision, torch.
        resume_file: To be deleted once the model is safely written.
    """

    model: GoogLeNet
    curve: Curve
    facts: dict[str, Any]
    resume_file: ResumeFile


@torch.no_grad()
def error_rate(model: nn.Module, images: Tensor, labels: Tensor, *, precision: torch.dtype) -> float:
    """Top-1 error in percent of `model`, in evaluation mode, on `images`, uint8 (N, S, S, 3)."""
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    for batch, expected in zip(images.split(500), labels.split(500), strict=True):
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            logits = model(batch.permute(0, 3, 1, 2).float().div_(255))  # (B, num_classes)
        correct += (logits.argmax(1) == expected).sum()
    return 100 * (1 - correct.item() / len(labels))


def fit(
    model: GoogLeNet,
    train: Images,
    val: Images,
    *,
    recipe: Recipe,
    compute: Compute,
    teacher: GoogLeNet | None = None,
    mask_schedule: MaskSchedule | None = None,
    evaluate_first: bool = False,
) -> Trained:
    """Train `model`, with a bar on a terminal, a line an epoch, and the time left.

    Called in each process that torchrun started, it shares the work among them, and the first one reports and saves.

    Args:
        model: Where to start; left as it is.
        train: Images to train on; an epoch's last incomplete batch is left out.
        val: Images for the validation error.
        teacher: Whose logits to follow, where the recipe has a distillation loss.
        mask_schedule: Which weights are zero (an unstructured pruned model); None for a dense one.
        evaluate_first: Whether the curve starts with the validation error before the first step, as epoch 0.

    Raises:
        ValueError: If the device is missing, the batch can't be shared out evenly, or training diverges.
        SystemExit: After SIGINT or SIGTERM; the same call then resumes there.
    """
    distills = isinstance(recipe, StudentRecipe) and recipe.distillation.loss != "none"
    run = Run(
        model,
        train,
        recipe=recipe,
        compute=compute,
        teacher=teacher if distills else None,
        mask_schedule=mask_schedule,
    )
    resume_file = ResumeFile(_fingerprint(model, train, run))
    if rank() == 0:
        momentum = sum(weight.nbytes for weight in run.model.parameters())  # comes with the first step
        resume_file.check_place(momentum + sum(tensor.nbytes for tensor in run.tensors().values()))
    with stop_request() as stop, resume_file.alone(stop) if rank() == 0 else nullcontext():
        curve, seconds = _train(run, val, resume_file=resume_file, stop=stop, evaluate_first=evaluate_first)
    result = run.result(run.batches.num_steps)
    if not all(tensor.isfinite().all() for tensor in result.state_dict().values()):
        raise ValueError(f"the weights after the last step must be finite, got others; lower lr ({recipe.lr})")
    threads = torch.get_num_threads()
    cpu = f"CPU, {threads} thread" + "s" * (threads > 1)
    device = torch.cuda.get_device_name() if run.device.type == "cuda" else cpu
    facts = {
        "seconds": round(seconds),
        "num_steps": run.batches.num_steps,
        "num_train_images": len(train),
        "num_val_images": len(val),
        "device": f"{num_processes()} x {device}" if num_processes() > 1 else device,
        "precision": "bf16" if run.precision == torch.bfloat16 else "fp32",
        "torch": torch.__version__,
    }
    result = result.requires_grad_().cpu().to(memory_format=torch.contiguous_format)
    return Trained(result, curve, facts, resume_file)


def _train(
    run: Run, val: Images, *, resume_file: ResumeFile, stop: StopRequest, evaluate_first: bool
) -> tuple[Curve, float]:
    """Make all steps that are left; returns the curve and the seconds that all took."""
    batches, recipe, first = run.batches, run.recipe, rank() == 0
    val_labels = torch.from_numpy(val.labels).to(run.device)
    full_size = val.size

    def val_error(size: int = full_size) -> float:
        pixels = resident(val.pixels, size=size, padding=0, device=run.device)
        return error_rate(run.result(step), pixels, val_labels, precision=run.precision)

    def save() -> None:
        if first:
            state = {"step": step, "curve": curve, "seconds": seconds(), "threads": torch.get_num_threads()}
            resume_file.save(run.tensors(), state)

    def seconds() -> float:
        return seconds_before + time.monotonic() - started

    step, curve, seconds_before, started = 0, Curve(), 0.0, time.monotonic()
    saved = from_first(resume_file.load() if first else None)
    if saved:
        tensors, state = saved
        run.restore(tensors)
        step, curve, seconds_before = state["step"], state["curve"], state["seconds"]
        if first:
            print(f"resuming at step {step} of {batches.num_steps} ({resume_file.path})", flush=True)
            if state["threads"] != (threads := torch.get_num_threads()):
                print(
                    f"with {threads} threads instead of {state['threads']}: weights will differ, as with another seed"
                )
    elif evaluate_first:
        curve.append({"epoch": 0, "val_error_pct": val_error(), "lr": 0.0})

    costs = [batches.image_size(step) ** 2 + PIXELS_OF_AN_IMAGE for step in range(batches.num_steps)]
    last_save, saving_s = time.monotonic(), 0.0
    with Progress(costs, first_step=step, epochs=recipe.epochs, quiet=not first) as progress:
        while step < batches.num_steps and not any_of_them(stop()):
            run.train_step(step)
            progress.advance(step, images=batches.batch_size)
            step += 1
            epoch, position = divmod(step, batches.steps_per_epoch)
            if progress.wants_loss():
                progress.show(loss=run.loss_sum.item() / (position or batches.steps_per_epoch))
            ended = position == 0 or step == batches.num_steps
            if ended:
                done = recipe.epochs if position else epoch
                loss = run.loss_sum.item() / (position or batches.steps_per_epoch)
                if not math.isfinite(loss):
                    raise ValueError(f"the loss of epoch {done:g} must be finite, got {loss}; lower lr ({recipe.lr})")
                run.loss_sum.zero_()
                images_per_s = progress.images_per_s()
                size, error = batches.image_size(step - 1), val_error()
                row: dict[str, Any] = {
                    "epoch": done,
                    "train_loss": loss,
                    "val_error_pct": error,
                    "image_size": size,
                    "val_error_at_size_pct": error if size == full_size else val_error(size),
                    "lr": run.lr(step - 1),
                    "images_per_s": images_per_s,
                }
                progress.report(row)
                progress.start_epoch()
                curve.append(row)
            now = time.monotonic()
            since_save = now - last_save
            last = step == batches.num_steps  # saved for another process that waits for the same training
            if last or since_save > SAVE_EVERY_S or (ended and saving_s < SAVING_SHARE * since_save):
                save()
                last_save = time.monotonic()
                saving_s = last_save - now
        if any_of_them(stop()):
            save()
            if first:
                print(f"stopped at step {step} of {batches.num_steps}; the same command resumes there", flush=True)
            raise SystemExit(128 + (stop.signal or signal.SIGTERM))
    return curve, seconds()


def write_trained(trained: Trained, name: str) -> None:
    """Write the model called `name`, its curve and its facts where later stages read them, in the first process."""
    if rank() > 0:
        return
    digits = {"train_loss": 4, "val_error_pct": 2, "image_size": 0, "val_error_at_size_pct": 2, "lr": 6}
    digits["images_per_s"] = 1
    curve = pd.DataFrame(trained.curve, columns=["epoch", *digits]).astype({"image_size": "Int64"}).round(digits)
    with replacing(curve_path(name)) as path:
        curve.to_csv(path, index=False)
    write_json(training_path(name), trained.facts)
    save_model(trained.model, model_path(name))
    trained.resume_file.delete()


def _fingerprint(model: GoogLeNet, train: Images, run: Run) -> str:
    """A name for this training: its code, parameters, images, device and first weights."""
    masks = inspect.getsource(sys.modules[type(run.mask_schedule).__module__]) if run.mask_schedule else ""
    settings = (run.recipe.model_dump_json(), model.architecture, run.device.type, run.precision, run.mask_schedule)
    states = [model.state_dict(), run.teacher.state_dict() if run.teacher is not None else {}]
    weights = [tensor.cpu().contiguous().numpy().tobytes() for state in states for tensor in state.values()]
    return fingerprint(
        *code_of("network", "training"),
        masks.encode(),
        repr(settings).encode(),
        train.digest(),
        *weights,
    )
