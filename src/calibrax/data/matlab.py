"""Reads one uint8 array of a MATLAB 5 file (MathWorks, "MAT-File Format", level 5), within a limit of bytes.

SciPy's reader will not do for files that others provide: it decompresses whatever a file holds, does not check the
checksums of compressed elements, and crashes the process on some files that differ in one byte of a tag.
"""

import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from calibrax.data.original import MAX_BYTES
from calibrax.data.types import DataError, readable

HEADER_BYTES, VERSION = 128, 0x0100
INT8, UINT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 2, 5, 6, 14, 15  # types of elements
UINT8_CLASS, COMPLEX = 9, 0x800  # class and flag of an array
MAX_PART = 128  # bytes of the flags, the dimensions or the name of an array; names have at most 63
CHUNK = 1 << 16


class _Source(Protocol):
    def read(self, num: int, /) -> bytes: ...


class _Inflated:
    """The content of a compressed element, decompressed only as far as it is read."""

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._left, self._inflate = stream, size, zlib.decompressobj()

    def read(self, num: int) -> bytes:
        content = bytearray()
        while len(content) < num and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._packed()
            if not packed:
                break
            content += self._inflate.decompress(packed, num - len(content))
        return bytes(content)

    def check_end(self) -> None:
        """Raise ValueError if content is left, or if the checksum, which is at the end, does not match."""
        if self.read(1) or not self._inflate.eof:
            raise ValueError("a compressed element does not end where it should")

    def _packed(self) -> bytes:
        packed = self._stream.read(min(self._left, CHUNK))
        self._left -= len(packed)
        return packed


def read_uint8(path: Path, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The uint8 array called `name`, whose axes have these sizes in MATLAB; None stands for any size.

    Raises:
      DataError: if there is no such array, if it has more than 256 MiB, or if the file is damaged.
    """
    with readable(path, "as a MATLAB file"), path.open("rb") as stream:
        header = stream.read(HEADER_BYTES)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:])
        if order is None or struct.unpack(f"{order}H", header[124:126]) != (VERSION,):
            raise ValueError("it is not of MATLAB's version 5")
        while tag := stream.read(8):
            kind, size = struct.unpack(f"{order}2I", tag)
            following = stream.tell() + size
            inflated = _Inflated(stream, size) if kind == COMPRESSED else None
            if inflated is not None:
                kind, _ = struct.unpack(f"{order}2I", inflated.read(8))
            if kind == MATRIX:
                array = _read_matrix(inflated or stream, order, name, shape)
                if array is not None:
                    if inflated is not None:
                        inflated.check_end()
                    return array
            stream.seek(following)
    raise DataError(f"{path} has no variable '{name}'")


def _read_matrix(source: _Source, order: str, name: str, expected: tuple[int | None, ...]) -> np.ndarray | None:
    """The array of an element, or None if it has another name."""
    flags = struct.unpack(f"{order}2I", _read_part(source, order, UINT32))[0]
    dimensions = _read_part(source, order, INT32)
    shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    if _read_part(source, order, INT8) != name.encode("ascii"):
        return None
    size = math.prod(shape)
    if flags & 0xFF != UINT8_CLASS or flags & COMPLEX:
        raise ValueError(f"'{name}' is no array of uint8")
    if len(shape) != len(expected) or any(n not in (None, m) for n, m in zip(expected, shape, strict=True)):
        listed = ", ".join("N" if n is None else str(n) for n in expected)
        raise ValueError(f"'{name}' has shape {shape}; expected ({listed})")
    if not 1 <= size <= MAX_BYTES:
        raise ValueError(f"'{name}' has shape {shape}; expected 1 to {MAX_BYTES} elements")
    content = _read_part(source, order, UINT8, size)
    if len(content) != size:
        raise ValueError(f"'{name}' has {len(content)} elements; expected {size}")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F")


def _read_part(source: _Source, order: str, kind: int, max_bytes: int = MAX_PART) -> bytes:
    """The content of the next element inside an array; ValueError unless it has this type."""
    tag = source.read(8)
    found, size = struct.unpack(f"{order}2I", tag)
    if found >> 16:  # the content, up to four bytes, is in the tag itself
        found, size, content = found & 0xFFFF, found >> 16, tag[4:]
    else:
        content = source.read(size + -size % 8) if size <= max_bytes else b""
    if found != kind or not size <= min(len(content), max_bytes):
        raise ValueError(f"an element has type {found} and {size} bytes; expected type {kind}, up to {max_bytes} bytes")
    return content[:size]
