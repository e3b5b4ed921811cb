"""Make the base as small a file as a sparse network of coarse weights can be: `python -m stages.squeeze`."""

import argparse

from stages.lib.params import load_params
from stages.lib.stage import one_line_errors, relaunch

SEED = 0  # of the choice of images
STATISTICS_IMAGES = 2000


def main() -> None:
    """Read data/train.npz and the base model; write the squeezed one, its curve and what it took."""
    params = load_params()
    squeeze = params.squeeze
    relaunch("stages.squeeze")

    from stages.lib.artifacts import model_path
    from stages.lib.images import random_batch, read_training_images
    from stages.lib.network.checkpoint import load_model
    from stages.lib.pruning.sparsity import RisingSparsity
    from stages.lib.pruning.weights import sparsify
    from stages.lib.training.distributed import process_group
    from stages.lib.training.fit import fit, write_trained

    train, val = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    base = load_model(model_path("base"))
    start = sparsify(
        base,
        sparsity=squeeze.start_sparsity,
        scope="lamp",
        refit_on=random_batch(train, squeeze.reconstruction_images, seed=SEED)[0],
        statistics_on=random_batch(train, STATISTICS_IMAGES, seed=SEED)[0],
    )
    levels = 2 ** (squeeze.weight_bits - 1) - 1
    with process_group():
        trained = fit(
            start,
            train,
            val,
            recipe=squeeze,
            compute=params.compute,
            teacher=base,
            mask_schedule=RisingSparsity(squeeze.start_sparsity, squeeze.sparsity, "lamp", levels),
            evaluate_first=True,
        )
        write_trained(trained, "sparse-lowbit")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("squeeze"):
        main()
