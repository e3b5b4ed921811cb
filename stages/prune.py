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
    from stages.lib.costs import count_nonzero_parameters, count_parameters
    from stages.lib.pruning import prune_channels, prune_weights

    model = load_model(Path("artifacts/models/base.safetensors"))
    match method:
        case "structured":
            pruned = prune_channels(model, ratio=params.ratio, round_to=params.round_to)
        case "unstructured":
            pruned = prune_weights(model, sparsity=params.sparsity)
        case _:
            raise ValueError(f"no pruning is called {method}; add it to stages/prune.py")
    save_model(pruned, Path(f"artifacts/pruned/{method}.safetensors"))

    print(f"{method}: {count_nonzero_parameters(pruned):,} nonzero parameters left of {count_parameters(model):,}")


if __name__ == "__main__":
    with one_line_errors("prune"):
        main()
