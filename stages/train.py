"""Train the base model: `python -m stages.train`."""

import argparse
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.lib.artifacts import CHECKPOINTS, user_path
from stages.lib.params import load_params
from stages.lib.stage import one_line_errors, relaunch


def main() -> None:
    """Read data/train.npz and maybe a model to begin with; write the base model, its curve and what it took."""
    params = load_params()  # before torch is imported, so that a mistake shows at once
    relaunch("stages.train")
    import torch

    from stages.lib.images import channel_statistics, read_training_images
    from stages.lib.network.checkpoint import load_start
    from stages.lib.network.googlenet import Architecture, GoogLeNet, scaled_widths, stem_stride_for
    from stages.lib.training.distributed import process_group
    from stages.lib.training.fit import fit, write_trained

    train, val = read_training_images(val_per_class=params.data.val_per_class, seed=params.data.seed)
    torch.manual_seed(params.train.seed)
    stem_stride = params.model.stem_stride or stem_stride_for(train.size)
    if params.train.start:
        with checkpoint_to_start_from(params.train.start) as checkpoint:
            model = load_start(
                checkpoint,
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


@contextmanager
def checkpoint_to_start_from(start: str) -> Iterator[Path]:
    """The file that `train.start` names: NAME in external/checkpoints/, or COMMIT:PATH in this repository's history.

    Raises:
        ValueError: If there is none.
    """
    if ":" not in start:
        path = user_path(CHECKPOINTS / start)
        if not path.is_file():
            raise ValueError(f"train.start must name a file in {CHECKPOINTS}/, found no {path}; copy it there")
        yield path
        return
    found = subprocess.run(["git", "cat-file", "blob", start], cwd=user_path(""), capture_output=True, check=False)
    if found.returncode:
        raise ValueError(
            f"train.start must name a file in this repository's history, found no {start} "
            f"({found.stderr.decode(errors='replace').strip()}); in a shallow clone run git fetch --unshallow"
        )
    with TemporaryDirectory() as folder:
        path = Path(folder, "start.safetensors")
        path.write_bytes(found.stdout)
        yield path


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("train"):
        main()
