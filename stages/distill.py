"""Train a narrower student with the base model as its teacher: `python -m stages.distill`."""

import argparse
from dataclasses import replace

from stages.lib.params import load_params
from stages.lib.stage import one_line_errors, relaunch

SEED = 0  # of the choice of images for a student that starts from the base
STATISTICS_IMAGES = 2000


def main() -> None:
    """Read data/train.npz and the base model; write the student, its curve and what it took."""
    params = load_params()
    distill = params.distill
    relaunch("stages.distill")
    import torch

    from stages.lib.artifacts import model_path
    from stages.lib.images import random_batch, read_training_images
    from stages.lib.network.checkpoint import load_model
    from stages.lib.network.googlenet import GoogLeNet
    from stages.lib.pruning.batch_norm import reestimate_batch_norm
    from stages.lib.pruning.channels import prune_channels
    from stages.lib.training.distributed import process_group
    from stages.lib.training.fit import fit, write_trained

    train, val = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    base = load_model(model_path("base"))
    if min(base.architecture.widths) * distill.width < 1:
        raise ValueError(
            f"distill.width must leave a channel in every layer of the base, whose narrowest has "
            f"{min(base.architecture.widths)}, got {distill.width}; raise it"
        )
    num_images = distill.reconstruction_images if distill.start == "base" else 0
    narrow = prune_channels(
        base,
        ratio=1 - distill.width,
        round_to=distill.round_to,
        refit_on=random_batch(train, num_images, seed=SEED)[0],
    )
    # No dropout: a small student has too little capacity already.
    architecture = replace(narrow.architecture, stem_pool=distill.stem_pool, dropout=0.0)
    torch.manual_seed(distill.seed)
    student = GoogLeNet(architecture)
    if distill.start == "base":
        student.load_state_dict(narrow.state_dict())
        student = reestimate_batch_norm(student, random_batch(train, STATISTICS_IMAGES, seed=SEED)[0])
    else:
        student.mean.copy_(base.mean)
        student.std.copy_(base.std)
    with process_group():
        trained = fit(
            student,
            train,
            val,
            recipe=distill,
            compute=params.compute,
            teacher=base,
            evaluate_first=distill.start == "base",
        )
        write_trained(trained, "distilled")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("distill"):
        main()
