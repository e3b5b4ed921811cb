"""Set weights of the base model to zero: `python -m stages.sparsify`."""

import argparse

from stages.lib.params import load_params
from stages.lib.stage import one_line_errors

SEED = 0  # of the choice of images


def main() -> None:
    """Read data/train.npz and the base model, write the one with zeros and how these rise in fine-tuning."""
    params = load_params()
    prune = params.prune

    from stages.lib.artifacts import compressed_path, compression_path, model_path, write_json
    from stages.lib.costs import count_nonzero_parameters, count_parameters
    from stages.lib.images import random_batch, read_training_images
    from stages.lib.network.checkpoint import load_model, save_model
    from stages.lib.pruning.weights import empty_layers, prune_weights, sparsify

    train, _ = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    base = load_model(model_path("base"))
    start = prune.sparsity if prune.start_sparsity is None else prune.start_sparsity
    pruned = sparsify(
        base,
        sparsity=start,
        scope=prune.sparsity_scope,
        refit_on=random_batch(train, prune.reconstruction_images, seed=SEED)[0],
        statistics_on=random_batch(train, prune.batch_norm_images, seed=SEED)[0],
    )
    final = prune_weights(base, sparsity=prune.sparsity, scope=prune.sparsity_scope)
    if empty := ", ".join(empty_layers(final)):
        print(f"prune.sparsity {prune.sparsity} leaves no weight in {empty}; with sparsity_scope lamp each keeps some")
    save_model(pruned, compressed_path("unstructured"))
    widths = base.architecture.widths
    zeros = {"start": start, "end": prune.sparsity, "scope": prune.sparsity_scope}
    facts = {"base_widths": widths, "widths": widths, "ranks": [], "zeros": zeros}
    write_json(compression_path("unstructured"), facts)
    print(f"unstructured: {count_nonzero_parameters(pruned):,} nonzero of {count_parameters(base):,} parameters")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("sparsify"):
        main()
