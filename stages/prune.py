"""Remove channels from the base model: `python -m stages.prune`."""

import argparse

from stages.lib.params import load_params
from stages.lib.stage import one_line_errors

SEED = 0  # of the choice of images
TAYLOR_IMAGES = 2000


def main() -> None:
    """Read data/train.npz and the base model, write the one with fewer channels and their counts."""
    params = load_params()
    prune = params.prune

    from stages.lib.artifacts import compressed_path, compression_path, model_path, write_json
    from stages.lib.costs import count_parameters
    from stages.lib.images import random_batch, read_training_images
    from stages.lib.network.checkpoint import load_model, save_model
    from stages.lib.pruning.batch_norm import reestimate_batch_norm
    from stages.lib.pruning.channels import prune_channels

    train, _ = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    base = load_model(model_path("base"))
    pruned = prune_channels(
        base,
        ratio=prune.ratio,
        round_to=prune.round_to,
        scope=prune.scope,
        max_ratio=prune.max_ratio,
        importance=prune.importance,
        examples=random_batch(train, TAYLOR_IMAGES, seed=SEED) if prune.importance == "taylor" else None,
        refit_on=random_batch(train, prune.reconstruction_images, seed=SEED)[0],
    )
    pruned = reestimate_batch_norm(pruned, random_batch(train, prune.batch_norm_images, seed=SEED)[0])
    save_model(pruned, compressed_path("structured"))
    shapes = {"base_widths": base.architecture.widths, "widths": pruned.architecture.widths, "ranks": []}
    write_json(compression_path("structured"), shapes)
    print(f"structured: {count_parameters(pruned):,} parameters left of {count_parameters(base):,}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("prune"):
        main()
