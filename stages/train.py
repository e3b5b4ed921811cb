"""Train the base model: `python -m stages.train`."""

import argparse

from stages.lib.params import load_params
from stages.lib.stage import one_line_errors, relaunch


def main() -> None:
    """Read data/train.npz, write the base model, its curve and what it took."""
    params = load_params()  # before torch is imported, so that a mistake shows at once
    relaunch("stages.train")
    import torch

    from stages.lib.images import channel_statistics, read_training_images
    from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths
    from stages.lib.training.distributed import process_group
    from stages.lib.training.fit import fit, write_trained

    train, val = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    torch.manual_seed(params.train.seed)
    model = GoogLeNet(
        Architecture(
            widths=scaled_widths(params.model.width),
            num_classes=len(train.classes),
            stem_pool=params.model.stem_pool,
            dropout=params.model.dropout,
        )
    )
    model.set_normalization(*channel_statistics(train))
    with process_group():
        write_trained(fit(model, train, val, recipe=params.train, compute=params.compute), "base")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("train"):
        main()
