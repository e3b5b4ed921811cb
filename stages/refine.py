"""Train the base on with the recipe of fine-tuning, as a control: `python -m stages.refine`."""

import argparse

from stages.lib.params import load_params
from stages.lib.stage import one_line_errors, relaunch


def main() -> None:
    """Read data/train.npz and the base model; write the refined one, its curve and what it took."""
    params = load_params()
    relaunch("stages.refine")

    from stages.lib.artifacts import model_path
    from stages.lib.images import read_training_images
    from stages.lib.network.checkpoint import load_model
    from stages.lib.training.distributed import process_group
    from stages.lib.training.fit import fit, write_trained

    train, val = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    base = load_model(model_path("base"))
    with process_group():
        trained = fit(
            base, train, val, recipe=params.finetune, compute=params.compute, teacher=base, evaluate_first=True
        )
        write_trained(trained, "refined")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("refine"):
        main()
