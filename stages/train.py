"""Train the base model: `python -m stages.train`."""

import argparse
from pathlib import Path

from stages.lib.errors import one_line_errors
from stages.lib.launcher import relaunch
from stages.lib.params import load_params


def main() -> None:
    """Read data/train.npz, write the base model, its curve and what it took."""
    params = load_params()  # before torch is imported, so that a mistake shows at once
    relaunch("stages.train")
    import torch

    from stages.lib.data import channel_statistics, read_images, split_validation
    from stages.lib.distributed import process_group
    from stages.lib.googlenet import Architecture, GoogLeNet, scaled_widths
    from stages.lib.training import fit, write_trained

    images = read_images(Path("data/train.npz"))
    train, val = split_validation(images, per_class=params.data.val_per_class, seed=params.data.seed)
    torch.manual_seed(params.train.seed)
    model = GoogLeNet(
        Architecture(
            widths=scaled_widths(params.model.width),
            num_classes=len(images.classes),
            stem_pool=params.model.stem_pool,
            dropout=params.model.dropout,
        )
    )
    model.set_normalization(*channel_statistics(train))
    with process_group():
        write_trained(fit(model, train, val, recipe=params.train), "base")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("train"):
        main()
