"""Replace layers of the base model by two thinner ones each: `python -m stages.factorize`."""

import argparse

from stages.lib.params import load_params
from stages.lib.stage import one_line_errors

SEED = 0  # of the choice of images


def main() -> None:
    """Read data/train.npz and the base model, write the factorized one and its ranks."""
    params = load_params()

    from stages.lib.artifacts import compressed_path, compression_path, model_path, write_json
    from stages.lib.costs import count_macs
    from stages.lib.images import random_batch, read_training_images
    from stages.lib.lowrank import factorize
    from stages.lib.network.checkpoint import load_model, save_model
    from stages.lib.pruning.batch_norm import reestimate_batch_norm

    train, _ = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    examples, _ = random_batch(train, params.lowrank.images, seed=SEED)
    base = load_model(model_path("base"))
    factorized = factorize(
        base,
        examples,
        macs_ratio=params.lowrank.macs_ratio,
        layers=params.lowrank.layers,
        round_to=params.lowrank.round_to,
    )
    factorized = reestimate_batch_norm(factorized, examples)
    save_model(factorized, compressed_path("lowrank"))
    architecture = factorized.architecture
    shapes = {"base_widths": base.architecture.widths, "widths": architecture.widths, "ranks": architecture.ranks}
    write_json(compression_path("lowrank"), shapes)
    macs, before = (count_macs(model, examples[:1]) / 1e6 for model in (factorized, base))
    print(
        f"lowrank: {sum(map(bool, architecture.ranks))} layers factorized, {macs:.0f} of {before:.0f} million MACs left"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("factorize"):
        main()
