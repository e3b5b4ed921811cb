"""Store the ONNX files of a sparse model small: `python -m stages.pack unstructured`."""

import argparse

from stages.lib.artifacts import onnx_path, packed_path, replacing
from stages.lib.models import PACKED, PRECISIONS
from stages.lib.params import load_params
from stages.lib.runtime.packing import pack
from stages.lib.stage import one_line_errors


def main() -> None:
    """Read the ONNX files of the model, write a packed file for each."""
    load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=PACKED)
    model = parser.parse_args().model
    for precision in PRECISIONS:
        path, target = onnx_path(model, precision), packed_path(model, precision)
        onnx_bytes = path.read_bytes()
        packed = pack(onnx_bytes)
        with replacing(target) as output:
            output.write_bytes(packed)
        print(f"{path}: {len(onnx_bytes) / 1e6:.2f} MB, {target}: {len(packed) / 1e6:.2f} MB")


if __name__ == "__main__":
    with one_line_errors("pack"):
        main()
