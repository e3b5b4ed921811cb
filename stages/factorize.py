"""Replace layers of the base model by two thinner ones each: `python -m stages.factorize`."""

import argparse
import json
from pathlib import Path

from stages.lib.errors import one_line_errors
from stages.lib.params import load_params

SEED = 0  # of the choice of images


def main() -> None:
    """Read data/train.npz and the base model, write the factorized one and its ranks."""
    params = load_params()

    from stages.lib.checkpoint import load_model, save_model
    from stages.lib.costs import count_macs
    from stages.lib.data import random_batch, read_images, split_validation
    from stages.lib.files import replacing
    from stages.lib.lowrank import factorize
    from stages.lib.pruning import reestimate_batch_norm

    images = read_images(Path("data/train.npz"))
    train, _ = split_validation(images, per_class=params.data.val_per_class, seed=params.data.seed)
    examples, _ = random_batch(train, params.lowrank.images, seed=SEED)
    base = load_model(Path("artifacts/models/base.safetensors"))
    factorized = factorize(
        base,
        examples,
        macs_ratio=params.lowrank.macs_ratio,
        layers=params.lowrank.layers,
        round_to=params.lowrank.round_to,
    )
    factorized = reestimate_batch_norm(factorized, examples)
    save_model(factorized, Path("artifacts/compressed/lowrank.safetensors"))
    architecture = factorized.architecture
    facts = {"base_widths": base.architecture.widths, "widths": architecture.widths, "ranks": architecture.ranks}
    with replacing(Path("artifacts/compression/lowrank.json")) as path:
        path.write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")
    macs, before = (count_macs(model, examples[:1]) / 1e6 for model in (factorized, base))
    print(
        f"lowrank: {sum(map(bool, architecture.ranks))} layers factorized, {macs:.0f} of {before:.0f} million MACs left"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("factorize"):
        main()
