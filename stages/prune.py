"""Prune the base model: `python -m stages.prune structured` or `unstructured`."""

import argparse
from pathlib import Path
from typing import get_args

from stages.lib.errors import one_line_errors
from stages.lib.params import PrunedModel, load_params


def main() -> None:
    """Read the base model, write the pruned one."""
    params = load_params().prune
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=get_args(PrunedModel))
    method = parser.parse_args().method

    from stages.lib.checkpoint import load_model, save_model
    from stages.lib.pruning import prune_channels, prune_weights

    model = load_model(Path("artifacts/models/base.safetensors"))
    if method == "structured":
        pruned = prune_channels(model, ratio=params.ratio, round_to=params.round_to)
    else:
        pruned = prune_weights(model, sparsity=params.sparsity)
    save_model(pruned, Path(f"artifacts/pruned/{method}.safetensors"))

    before, after = (sum(int((p != 0).sum()) for p in m.parameters()) for m in (model, pruned))
    print(f"{method}: {after:,} nonzero parameters left of {before:,}")


if __name__ == "__main__":
    with one_line_errors("prune"):
        main()
