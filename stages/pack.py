"""Store a sparse model's ONNX file small: `python -m stages.pack unstructured int8`."""

import argparse
from pathlib import Path
from typing import get_args

from stages.lib.errors import one_line_errors
from stages.lib.files import replacing
from stages.lib.packing import pack
from stages.lib.params import Model, Precision, load_params


def main() -> None:
    """Read an ONNX file, write its packed file."""
    load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=get_args(Model))
    parser.add_argument("precision", choices=get_args(Precision))
    args = parser.parse_args()

    path = Path(f"artifacts/{args.precision}/{args.model}.onnx")
    onnx_bytes = path.read_bytes()
    packed = pack(onnx_bytes)
    packed_path = Path(f"artifacts/packed/{args.model}-{args.precision}.onnx.packed")
    with replacing(packed_path) as output:
        output.write_bytes(packed)
    print(f"{path}: {len(onnx_bytes) / 1e6:.2f} MB, {packed_path}: {len(packed) / 1e6:.2f} MB")


if __name__ == "__main__":
    with one_line_errors("pack"):
        main()
