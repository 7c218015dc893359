"""Records of TFRecord files by index, read without TensorFlow.

A record is its length (8 bytes, little-endian), a checksum of these (4 bytes), the data, and a checksum of the data (4
bytes). The checksum is a masked CRC-32C: https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

import functools
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

HEADER, FOOTER = struct.Struct("<QI"), struct.Struct("<I")
POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
MASK = 0xA282EAD8
BLOCK = 256  # bytes that are summed at once


class TFRecords:
    """The records of some files, in order: a random-access source of bytes. Each is checked when it is read.

    Raises:
      ValueError: if a file ends within a record, or when a damaged record is read.
      OSError: if a file cannot be read.
    """

    def __init__(self, paths: Iterable[Path]):
        self._places = [(path, offset, length) for path in paths for offset, length in _places(path)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> bytes:
        path, offset, length = self._places[index]
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
            (expected,) = FOOTER.unpack(file.read(FOOTER.size))
        if masked_crc(data) != expected:
            raise ValueError(f"checksum of record {index} differs")
        return data


def _places(path: Path) -> Iterable[tuple[int, int]]:
    """Offset and length of the data of each record in a file."""
    at, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            header = file.read(HEADER.size)
            length = HEADER.unpack(header)[0] if len(header) == HEADER.size else size
            begin, at = at + HEADER.size, at + HEADER.size + length + FOOTER.size
            if at > size:
                raise ValueError(f"{path.name} ends within a record")
            yield begin, length


def masked_crc(data: bytes) -> int:
    """The checksum of TFRecord files."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes.

    A CRC is linear: the effect of a byte depends only on its value and on the number of bytes after it, and the effects
    add up by exclusive or. The effects of whole blocks are looked up at once, because a loop over all bytes in Python
    reads only some 10 MB per second.
    """
    effects, table, last = _effects()
    head = len(data) % BLOCK
    register = 0xFFFFFFFF
    for byte in data[:head]:
        register = table[(register ^ byte) & 0xFF] ^ register >> 8
    blocks = np.frombuffer(data, np.uint8, offset=head).reshape(-1, BLOCK)
    for block in np.bitwise_xor.reduce(effects[np.arange(BLOCK), blocks], axis=1).tolist():
        # The register adds to the first four bytes of the block, its lowest byte to the first of them.
        for shift, effect in zip((0, 8, 16, 24), last, strict=True):
            block ^= effect[register >> shift & 0xFF]
        register = block
    return register ^ 0xFFFFFFFF


@functools.cache
def _effects() -> tuple[np.ndarray, list[int], list[list[int]]]:
    """The effect of each value at each place of a block, uint32 [BLOCK, 256]; its last row and first four as lists."""
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & 1, row >> 1 ^ np.uint32(POLYNOMIAL), row >> 1)
    rows = [row]
    while len(rows) < BLOCK:
        rows.append(row[rows[-1] & 0xFF] ^ rows[-1] >> 8)  # one more zero after the byte
    effects = np.stack(rows[::-1])
    return effects, effects[-1].tolist(), effects[:4].tolist()
