"""Fine-tune a pruned or factorized model: `python -m stages.finetune structured`, `unstructured` or `lowrank`."""

import argparse
import json
from pathlib import Path
from typing import get_args

from stages.lib.errors import one_line_errors
from stages.lib.launcher import relaunch
from stages.lib.params import FinetunedModel, load_params


def main() -> None:
    """Read data/train.npz, the compressed model and its teacher; write the model, its curve and what it took."""
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=get_args(FinetunedModel))
    name = parser.parse_args().model
    relaunch("stages.finetune")

    from stages.lib.checkpoint import load_model
    from stages.lib.data import read_images, split_validation
    from stages.lib.distributed import process_group
    from stages.lib.sparsity import RisingSparsity
    from stages.lib.training import fit, write_trained

    images = read_images(Path("data/train.npz"))
    train, val = split_validation(images, per_class=params.data.val_per_class, seed=params.data.seed)
    model = load_model(Path(f"artifacts/compressed/{name}.safetensors"))
    facts = json.loads(Path(f"artifacts/compression/{name}.json").read_text(encoding="utf-8"))
    rises = facts.get("start_sparsity") != facts.get("sparsity")
    distills = params.finetune.distillation.loss != "none"
    with process_group():
        trained = fit(
            model,
            train,
            val,
            recipe=params.finetune,
            teacher=load_model(Path("artifacts/models/base.safetensors")) if distills else None,
            keep_zeros="sparsity" in facts,
            rising=RisingSparsity(facts["start_sparsity"], facts["sparsity"], facts["sparsity_scope"])
            if rises
            else None,
            evaluate_first=True,
        )
        write_trained(trained, name)


if __name__ == "__main__":
    with one_line_errors("finetune"):
        main()
