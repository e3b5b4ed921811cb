"""Packed files: restored bit for bit, small where the model is sparse, and refused where they are damaged."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from stages.lib.network.googlenet import GoogLeNet
from stages.lib.quantization.export import export_onnx
from stages.lib.runtime.packing import HEADER, MAGIC, pack, unpack
from stages.lib.runtime.session import open_session

ROOT = Path(__file__).parents[2]


def onnx_file(*arrays: np.ndarray) -> bytes:
    """An ONNX file that holds these tensors and a node."""
    node = helper.make_node("Identity", ["w0"], ["y"])
    weights = [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(arrays)]
    output = helper.make_empty_tensor_value_info("y")
    data: bytes = helper.make_model(helper.make_graph([node], "graph", [], [output], weights)).SerializeToString()
    return data


def sparse(num: int, *, share: float) -> np.ndarray:
    """Normal float32 (num,), all but a share of them zero."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(num) < share, rng.standard_normal(num), 0).astype(np.float32)


SPECIAL = np.array([0x80000000, 0x7FC01234, 0xFF800001, 0x7F800000, 1, 0], dtype="<u4").view("<f4").repeat(99)


@pytest.mark.parametrize(
    "arrays",
    [
        (sparse(10_001, share=1),),
        (sparse(10_001, share=0.2), sparse(3_333, share=0.1)),
        (np.arange(-127, 127, dtype=np.int8).repeat(7), sparse(999, share=0.2), np.zeros(5_000, np.uint8)),
        (SPECIAL,),  # -0.0, NaN with a payload, infinity, the least number
        (np.zeros(10_000, np.float32), np.zeros(10_000, np.float32)),
        (np.arange(5_000, dtype=np.int64), np.float32([1, 2])),  # nothing to take out
    ],
    ids=["dense", "sparse", "int8", "special", "zeros", "left alone"],
)
def test_packed_file_restores_bit_for_bit(arrays: tuple[np.ndarray, ...]) -> None:
    file = onnx_file(*arrays)
    assert unpack(pack(file)) == file


def test_sparse_file_is_well_below_a_dense_one() -> None:
    file = onnx_file(sparse(100_000, share=0.2))
    assert len(pack(file)) < len(file) / 4 < len(pack(onnx_file(sparse(100_000, share=1)))) / 3


def test_every_flipped_or_missing_byte_is_refused() -> None:
    packed = pack(onnx_file(sparse(2_000, share=0.2), np.ones(2_000, np.int8)))
    for i in range(0, len(packed), 7):
        damaged = bytearray(packed)
        damaged[i] ^= 0xFF
        for wrong in (bytes(damaged), packed[:i]):
            try:
                restored = unpack(wrong)
            except ValueError as error:
                assert str(error).startswith("a packed model must") and "\n" not in str(error)
            else:
                assert restored == unpack(packed)  # a byte of LZMA's own that does not matter


def test_declared_sizes_are_checked_before_memory_is_taken() -> None:
    packed = pack(onnx_file(sparse(2_000, share=0.2)))
    _, digest, size, num_blocks, body_size = HEADER.unpack_from(packed)
    for sizes in ((1 << 60, num_blocks, body_size), (size, 1 << 31, body_size), (size, num_blocks, 1 << 60)):
        with pytest.raises(ValueError, match="declares sizes that do not fit"):
            unpack(HEADER.pack(MAGIC, digest, *sizes) + packed[HEADER.size :])


def test_something_else_than_a_model_is_not_packed() -> None:
    with pytest.raises(ValueError, match="only an ONNX model can be packed"):
        pack(b"no model")


def test_packed_network_gives_the_same_logits_also_when_restored_by_hand(tiny: GoogLeNet, tmp_path: Path) -> None:
    path, packed_path, restored = (tmp_path / name for name in ("net.onnx", "net.onnx.packed", "restored.onnx"))
    export_onnx(tiny, path, classes=["ant", "bee", "cat"], image_size=32)
    packed_path.write_bytes(pack(path.read_bytes()))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    expected, logits = (
        open_session(file, threads=1).run(["logits"], {"images": images})[0] for file in (path, packed_path)
    )
    np.testing.assert_array_equal(logits, expected)

    command = [sys.executable, "-m", "stages.lib.runtime.packing"]
    subprocess.run([*command, packed_path, restored], check=True, cwd=ROOT)
    assert restored.read_bytes() == path.read_bytes()
    failed = subprocess.run([*command, path, restored], capture_output=True, text=True, cwd=ROOT)
    message = f"packing: {path} can't be restored to {restored}: a packed model must begin with"
    assert failed.returncode == 1 and failed.stderr.startswith(message)


def test_restoring_imports_neither_torch_nor_onnx() -> None:
    code = "import sys, stages.lib.runtime.packing; assert not {'torch', 'onnx', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
