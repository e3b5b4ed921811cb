"""Fine-tune a pruned or factorized model: `python -m stages.finetune structured`."""

import argparse

from stages.lib.models import FINETUNED
from stages.lib.params import load_params
from stages.lib.stage import one_line_errors, relaunch


def main() -> None:
    """Read data/train.npz, the compressed model and its teacher; write the model, its curve and what it took."""
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=FINETUNED)
    name = parser.parse_args().model
    relaunch("stages.finetune")

    from stages.lib.artifacts import compressed_path, compression_path, model_path, read_json
    from stages.lib.images import read_training_images
    from stages.lib.network.checkpoint import load_model
    from stages.lib.pruning.sparsity import RisingSparsity
    from stages.lib.training.distributed import process_group
    from stages.lib.training.fit import fit, write_trained

    train, val = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    zeros = read_json(compression_path(name)).get("zeros")
    with process_group():
        trained = fit(
            load_model(compressed_path(name)),
            train,
            val,
            recipe=params.finetune,
            compute=params.compute,
            teacher=load_model(model_path("base")),
            mask_schedule=RisingSparsity(**zeros) if zeros else None,
            evaluate_first=True,
        )
        write_trained(trained, name)


if __name__ == "__main__":
    with one_line_errors("finetune"):
        main()
