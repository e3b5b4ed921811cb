"""Prune the base model: `python -m stages.prune structured` or `unstructured`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from stages.lib.errors import one_line_errors
from stages.lib.params import Prune, PrunedModel, StudentRecipe, load_params

if TYPE_CHECKING:
    from stages.lib.data import Images
    from stages.lib.googlenet import GoogLeNet
    from stages.lib.resume import ResumeFile

SEED = 0  # of the choice of images for importances and statistics
TAYLOR_IMAGES = 2000


def main() -> None:
    """Read data/train.npz and the base model, write the pruned one and what was done to it."""
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=get_args(PrunedModel))
    name = parser.parse_args().model

    from stages.lib.checkpoint import load_model, save_model
    from stages.lib.costs import count_nonzero_parameters, count_parameters
    from stages.lib.data import random_batch, read_images, split_validation
    from stages.lib.files import replacing
    from stages.lib.pruning import empty_layers, prune_weights, reestimate_batch_norm
    from stages.lib.reconstruction import reconstruct

    prune = params.prune
    images = read_images(Path("data/train.npz"))
    train, val = split_validation(images, per_class=params.data.val_per_class, seed=params.data.seed)
    base = load_model(Path("artifacts/models/base.safetensors"))
    facts: dict[str, object] = {"base_widths": base.architecture.widths, "ranks": []}
    resume_files: list[ResumeFile] = []
    match name:
        case "structured":
            pruned, resume_files = prune_structured(base, train, val, prune=params.prune, recipe=params.finetune)
        case "unstructured":
            start = prune.sparsity if prune.start_sparsity is None else prune.start_sparsity
            pruned = prune_weights(base, sparsity=start, scope=prune.sparsity_scope)
            if prune.reconstruction_images:
                pruned = reconstruct(base, pruned, random_batch(train, prune.reconstruction_images, seed=SEED)[0])
            final = prune_weights(base, sparsity=prune.sparsity, scope=prune.sparsity_scope)
            if empty := ", ".join(empty_layers(final)):
                print(f"prune.sparsity {prune.sparsity} leaves no weight in {empty}; prune.sparsity_scope lamp would")
            # Fine-tuning goes on from here.
            facts |= {"start_sparsity": start, "sparsity": prune.sparsity, "sparsity_scope": prune.sparsity_scope}
        case _:
            raise ValueError(f"no pruning is called {name}; add it to stages/prune.py")
    pruned = reestimate_batch_norm(pruned, random_batch(train, prune.batch_norm_images, seed=SEED)[0])
    save_model(pruned, Path(f"artifacts/compressed/{name}.safetensors"))
    with replacing(Path(f"artifacts/compression/{name}.json")) as path:
        facts["widths"] = pruned.architecture.widths
        path.write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")
    for resume_file in resume_files:
        resume_file.delete()
    print(f"{name}: {count_nonzero_parameters(pruned):,} nonzero parameters left of {count_parameters(base):,}")


def prune_structured(
    base: "GoogLeNet", train: "Images", val: "Images", *, prune: Prune, recipe: StudentRecipe
) -> tuple["GoogLeNet", list["ResumeFile"]]:
    """Remove channels in `prune.steps` steps, after training that draws scales to zero where that is asked for.

    Returns:
        The pruned network, and the state of each training on the way, to be deleted once it is safely written.

    Raises:
        ValueError: If the ratio is impossible, before any training; and as `fit` does.
    """
    from stages.lib.data import random_batch
    from stages.lib.pruning import prune_channels
    from stages.lib.training import fit

    prune_channels(base, ratio=prune.ratio, round_to=prune.round_to, scope=prune.scope, max_ratio=prune.max_ratio)
    resume_files = []

    def trained(model: "GoogLeNet", epochs: int, scale_penalty: float = 0.0) -> "GoogLeNet":
        warmup_epochs = min(recipe.warmup_epochs, epochs / 2)
        shortened = recipe.model_copy(update={"epochs": epochs, "warmup_epochs": warmup_epochs})
        teacher = base if recipe.distillation.loss != "none" else None
        done = fit(model, train, val, recipe=shortened, teacher=teacher, scale_penalty=scale_penalty)
        resume_files.append(done.resume_file)
        return done.model

    model = trained(base, prune.sparsify_epochs, prune.sparsify_weight) if prune.sparsify_epochs else base
    for step in range(1, prune.steps + 1):
        model = prune_channels(
            model,
            ratio=prune.ratio * (step / prune.steps),  # exact in the last step
            round_to=prune.round_to,
            scope=prune.scope,
            max_ratio=prune.max_ratio,
            importance=prune.importance,
            examples=random_batch(train, TAYLOR_IMAGES, seed=SEED),
            full_widths=base.architecture.widths,
            refit_on=random_batch(train, prune.reconstruction_images, seed=SEED)[0],
        )
        if step < prune.steps:
            model = trained(model, prune.step_epochs)
    return model, resume_files


if __name__ == "__main__":
    with one_line_errors("prune"):
        main()
