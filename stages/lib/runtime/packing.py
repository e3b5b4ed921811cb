"""ONNX files of sparse models stored small, and restored bit for bit.

A file of its own: it needs NumPy to restore, onnx to pack, and nothing else of this project, so it can be copied to
where the model runs. `python -m stages.lib.runtime.packing model.onnx.packed model.onnx` restores.

Packed is: a header (magic with version, SHA-256 and size of the ONNX file, number of blocks, size of the body), then
the body, compressed with LZMA. A block is the data of one weight tensor. The body holds a table of the blocks, the
bytes of the file around them, a bit for each element (is it not zero?), and the elements that are not.
"""

import argparse
import hashlib
import lzma
import struct
import sys
from pathlib import Path

import numpy as np

HEADER = struct.Struct("<9s32sQIQ")
MAGIC = b"ONNXPACK\x01"
MAX_BYTES = 1 << 31  # protobuf allows no larger file
MIN_BLOCK_BYTES = 1024  # smaller tensors stay where they are
ROW = 3 * 4  # of the table, uint32: bytes before the block, its elements, bytes of an element
# The bytes follow no text's patterns: every context that LZMA keeps for them only dilutes its statistics.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]


def pack(onnx_bytes: bytes) -> bytes:
    """Compress an ONNX file; `unpack` gives back the same bytes.

    Raises:
        ValueError: If it is no ONNX file.
    """
    rows, around, masks = [], [], []
    values: dict[int, list[np.ndarray]] = {1: [], 4: []}
    end = 0
    for start, stop, itemsize in _blocks(onnx_bytes):
        elements = np.frombuffer(onnx_bytes[start:stop], f"<u{itemsize}")
        nonzero = elements != 0  # as integers, so -0.0 is not zero and survives
        rows.append((start - end, len(elements), itemsize))
        around.append(onnx_bytes[end:start])
        masks.append(np.packbits(nonzero).tobytes())
        values[itemsize].append(elements[nonzero])
        end = stop
    around.append(onnx_bytes[end:])
    words = np.concatenate([*values[4], np.empty(0, "<u4")])
    small = np.concatenate([*values[1], np.empty(0, "u1")])
    # The sign moves to the end, so that the exponent, which repeats, has a byte of its own; then byte by significance.
    planes = (words << 1 | words >> 31).astype("<u4").view("u1").reshape(-1, 4).T
    table = np.array(rows, "<u4").tobytes()
    body = b"".join([table, *around, *masks, planes.tobytes(), small.tobytes()])
    header = HEADER.pack(MAGIC, hashlib.sha256(onnx_bytes).digest(), len(onnx_bytes), len(rows), len(body))
    packed = header + lzma.compress(body, check=lzma.CHECK_NONE, filters=FILTERS)
    if unpack(packed) != onnx_bytes:
        raise ValueError("the packed file must restore the same bytes, got others: a bug; ship the ONNX file instead")
    return packed


def unpack(packed: bytes) -> bytes:
    """Restore the ONNX file that `pack` was given.

    Raises:
        ValueError: If `packed` is no packed file, or damaged.
    """
    if len(packed) < HEADER.size or not packed.startswith(MAGIC):
        raise ValueError(f"a packed model must begin with {MAGIC!r}, got {packed[: len(MAGIC)]!r}; pack it again")
    _, digest, size, num_blocks, body_size = HEADER.unpack_from(packed)
    try:
        body = _decompress(packed[HEADER.size :], size=size, num_blocks=num_blocks, body_size=body_size)
        restored = _restore(body, size=size, num_blocks=num_blocks)
    except (lzma.LZMAError, ValueError) as error:
        raise ValueError(f"a packed model must be whole, got a damaged one ({error}); copy or pack it again") from None
    if hashlib.sha256(restored).digest() != digest:
        raise ValueError(
            "a packed model must restore the file it was made from, got other bytes; copy or pack it again"
        )
    return restored


def _blocks(onnx_bytes: bytes) -> list[tuple[int, int, int]]:
    """Where the data of the large tensors lies in the file: start, stop, bytes of an element; in order."""
    import onnx

    try:
        initializers = onnx.load_from_string(onnx_bytes).graph.initializer
    except Exception as error:  # protobuf's, by whichever of its implementations
        raise ValueError(f"only an ONNX model can be packed, got something else ({error}); run dvc repro") from None
    itemsizes = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.INT8: 1, onnx.TensorProto.UINT8: 1}
    blocks, end = [], 0
    for tensor in initializers:
        itemsize = itemsizes.get(tensor.data_type)
        if itemsize is None or len(tensor.raw_data) < MIN_BLOCK_BYTES:
            continue
        # Found by content: an equal run of bytes elsewhere would do as well.
        if (start := onnx_bytes.find(tensor.raw_data, end)) >= 0:
            end = start + len(tensor.raw_data)
            blocks.append((start, end, itemsize))
    return blocks


def _decompress(compressed: bytes, *, size: int, num_blocks: int, body_size: int) -> bytes:
    """The body; no more memory than what the header declares, and that within bounds."""
    if size > MAX_BYTES or num_blocks * MIN_BLOCK_BYTES > size or body_size > 2 * size + ROW * num_blocks:
        raise ValueError("its header declares sizes that do not fit each other")
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=1 << 28)
    body = decompressor.decompress(compressed, max_length=body_size + 1)
    if len(body) != body_size or decompressor.unused_data:
        raise ValueError(f"its body must have {body_size} bytes, got {len(body)} or more")
    return body


def _restore(body: bytes, *, size: int, num_blocks: int) -> bytes:
    """The ONNX file from the body; every size is checked before anything of that size is made."""
    rows = np.frombuffer(body, "<u4", 3 * num_blocks).reshape(-1, 3).astype(int).tolist()
    around_size = size - sum(num * itemsize for _, num, itemsize in rows)
    if any(itemsize not in (1, 4) for *_, itemsize in rows) or around_size < sum(before for before, *_ in rows):
        raise ValueError("its table does not fit its size")
    masks_at = ROW * num_blocks + around_size
    values_at = masks_at + sum((num + 7) // 8 for _, num, _ in rows)
    masks, at = [], masks_at
    for _, num, _ in rows:
        masks.append(np.unpackbits(np.frombuffer(body, "u1", (num + 7) // 8, at), count=num).astype(bool))
        at += (num + 7) // 8
    counts = [int(mask.sum()) for mask in masks]
    num_words = sum(count for count, row in zip(counts, rows, strict=True) if row[2] == 4)
    if values_at + 4 * num_words + sum(counts) - num_words != len(body):
        raise ValueError("its values do not fit its masks")
    planes = np.frombuffer(body, "u1", 4 * num_words, values_at).reshape(4, -1)
    words = np.ascontiguousarray(planes.T).view("<u4").reshape(-1)
    values = {4: words >> 1 | words << 31, 1: np.frombuffer(body, "u1", offset=values_at + 4 * num_words)}

    pieces, around_at, used = [], ROW * num_blocks, {1: 0, 4: 0}
    for (before, num, itemsize), mask, count in zip(rows, masks, counts, strict=True):
        elements = np.zeros(num, f"<u{itemsize}")
        elements[mask] = values[itemsize][used[itemsize] : used[itemsize] + count]
        used[itemsize] += count
        pieces += [body[around_at : around_at + before], elements.tobytes()]
        around_at += before
    return b"".join([*pieces, body[around_at:masks_at]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Restore the ONNX file of a packed model.")
    parser.add_argument("packed", type=Path)
    parser.add_argument("onnx", type=Path)
    args = parser.parse_args()
    try:
        part = args.onnx.with_name(f"{args.onnx.name}.part")
        part.write_bytes(unpack(args.packed.read_bytes()))
        part.replace(args.onnx)
    except (ValueError, OSError) as problem:
        sys.exit(f"packing: {args.packed} can't be restored to {args.onnx}: {problem}")
