"""Reads one uint8 array of a MATLAB 5 file (MathWorks, "MAT-File Format", level 5), within a limit of bytes.

SciPy's reader will not do for files that others provide: it decompresses whatever a file holds, does not check the
checksums of compressed elements, and crashes the process on some files that differ in one byte of a tag.
"""

import io
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from calibrax.data.original import MAX_BYTES
from calibrax.data.types import DataError, readable

HEADER_BYTES, VERSION = 128, 0x0100
INT8, UINT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 2, 5, 6, 14, 15  # types of elements
UINT8_CLASS, COMPLEX = 9, 0x800  # class and flag of an array
MAX_PART = 128  # bytes of the flags, the dimensions or the name of an array; names have at most 63
MAX_FRAME = 4 * MAX_PART  # bytes of an array besides its elements


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
        file_size, left = path.stat().st_size, MAX_BYTES + MAX_FRAME
        # No more of a compressed element is inflated than an array of this shape can have.
        most = left if None in shape else math.prod(n for n in shape if n is not None) + MAX_FRAME
        while tag := stream.read(8):
            kind, size = struct.unpack(f"{order}2I", tag)
            following = stream.tell() + size
            source, inflate = stream, zlib.decompressobj()
            if kind == COMPRESSED:
                content = inflate.decompress(stream.read(min(size, file_size)), most)
                left -= len(content)
                if left < 0:
                    raise ValueError(f"it inflates to more than {MAX_BYTES} bytes")
                source = io.BytesIO(content)
                kind, _ = struct.unpack(f"{order}2I", source.read(8))
            array = _read_matrix(source, order, name, shape) if kind == MATRIX else None
            if array is not None:
                # The checksum is at the end of a compressed element.
                if source is not stream and (source.read(1) or not inflate.eof):
                    raise ValueError("a compressed element does not end where it should")
                return array
            stream.seek(following)
    raise DataError(f"{path} has no variable '{name}'")


def _read_matrix(source: BinaryIO, order: str, name: str, expected: tuple[int | None, ...]) -> np.ndarray | None:
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


def _read_part(source: BinaryIO, order: str, kind: int, max_bytes: int = MAX_PART) -> bytes:
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
