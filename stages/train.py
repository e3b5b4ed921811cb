"""Train the base model: `python -m stages.train`."""

import argparse

from stages.lib.params import load_params
from stages.lib.stage import one_line_errors, relaunch


def main() -> None:
    """Read data/train.npz and maybe a model to begin with; write the base model, its curve and what it took."""
    params = load_params()  # before torch is imported, so that a mistake shows at once
    relaunch("stages.train")
    import torch

    from stages.lib.artifacts import EXTERNAL, user_path
    from stages.lib.images import channel_statistics, read_training_images
    from stages.lib.network.checkpoint import load_start
    from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths, stem_stride_for
    from stages.lib.training.distributed import process_group
    from stages.lib.training.fit import fit, write_trained

    train, val = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    torch.manual_seed(params.train.seed)
    stem_stride = params.model.stem_stride or stem_stride_for(train.size)
    if params.train.start:
        start = user_path(EXTERNAL / params.train.start)
        if not start.is_file():
            raise ValueError(f"train.start must name a file in external/, found no {start}; copy it there")
        model = load_start(
            start,
            num_classes=len(train.classes),
            stem_stride=stem_stride,
            dropout=params.model.dropout,
        )
    else:
        architecture = Architecture(
            widths=scaled_widths(params.model.width),
            num_classes=len(train.classes),
            stem_pool=params.model.stem_pool,
            dropout=params.model.dropout,
            stem_stride=stem_stride,
        )
        model = GoogLeNet(architecture)
        model.set_normalization(*channel_statistics(train))
    with process_group():
        write_trained(fit(model, train, val, recipe=params.train, compute=params.compute), "base")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("train"):
        main()
