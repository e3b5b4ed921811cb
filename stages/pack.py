"""Store the ONNX files of sparse models small: `python -m stages.pack`."""

import argparse
from pathlib import Path
from typing import get_args

from stages.lib.errors import one_line_errors
from stages.lib.files import replacing
from stages.lib.packing import pack
from stages.lib.params import Precision, load_params

FOLDER = Path("artifacts/packed")


def main() -> None:
    """Read the ONNX files of the models that are packed, write a packed file for each."""
    params = load_params()
    FOLDER.mkdir(parents=True, exist_ok=True)  # also where nothing is packed
    for model in params.models.packed:
        for precision in get_args(Precision):
            path = Path(f"artifacts/{precision}/{model}.onnx")
            onnx_bytes = path.read_bytes()
            packed = pack(onnx_bytes)
            packed_path = FOLDER / f"{model}-{precision}.onnx.packed"
            with replacing(packed_path) as output:
                output.write_bytes(packed)
            print(f"{path}: {len(onnx_bytes) / 1e6:.2f} MB, {packed_path}: {len(packed) / 1e6:.2f} MB")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with one_line_errors("pack"):
        main()
