"""Train a narrower student with the base model as its teacher: `python -m stages.distill`."""

import argparse
from dataclasses import replace
from pathlib import Path

from stages.lib.errors import one_line_errors
from stages.lib.launcher import relaunch
from stages.lib.params import load_params

SEED = 0  # of the choice of images for a student that starts from the base
STATISTICS_IMAGES = 2000


def main() -> None:
    """Read data/train.npz and the base model; write the student, its curve and what it took."""
    params = load_params()
    relaunch("stages.distill")
    import torch

    from stages.lib.checkpoint import load_model
    from stages.lib.data import random_batch, read_images, split_validation
    from stages.lib.distributed import process_group
    from stages.lib.googlenet import GoogLeNet
    from stages.lib.pruning import prune_channels, reestimate_batch_norm
    from stages.lib.training import fit, write_trained

    images = read_images(Path("data/train.npz"))
    train, val = split_validation(images, per_class=params.data.val_per_class, seed=params.data.seed)
    base = load_model(Path("artifacts/models/base.safetensors"))
    if min(base.architecture.widths) * params.distill.width < 1:
        raise ValueError(
            f"distill.width must leave a channel in every layer of the base, whose narrowest has "
            f"{min(base.architecture.widths)}, got {params.distill.width}; raise it"
        )
    num_images = params.distill.reconstruction_images if params.distill.start == "base" else 0
    narrow = prune_channels(
        base,
        ratio=1 - params.distill.width,
        round_to=params.distill.round_to,
        refit_on=random_batch(train, num_images, seed=SEED)[0],
    )
    # No dropout: a small student has too little capacity already.
    architecture = replace(narrow.architecture, stem_pool=params.distill.stem_pool, dropout=0.0)
    torch.manual_seed(params.distill.seed)
    student = GoogLeNet(architecture)
    if params.distill.start == "base":
        student.load_state_dict(narrow.state_dict())
        student = reestimate_batch_norm(student, random_batch(train, STATISTICS_IMAGES, seed=SEED)[0])
    else:
        student.mean.copy_(base.mean)
        student.std.copy_(base.std)
    distills = params.distill.distillation.loss != "none"
    with process_group():
        trained = fit(
            student,
            train,
            val,
            recipe=params.distill,
            teacher=base if distills else None,
            evaluate_first=params.distill.start == "base",
        )
        write_trained(trained, "distilled")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("distill"):
        main()
