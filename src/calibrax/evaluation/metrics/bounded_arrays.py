"""Arrays of `.npz` files that must not be larger than expected: nothing larger is decompressed."""

import zipfile

import numpy as np

HEADER_BYTES = 4096  # at most; NumPy's headers of plain arrays have 128


def read_array(archive: zipfile.ZipFile, name: str, max_bytes: int) -> np.ndarray:
    """One array of an archive written by `np.savez` or `np.savez_compressed`; pickles are never opened.

    Args:
      archive: open for reading.
      name: of the array.
      max_bytes: of its elements.

    Raises:
      KeyError: if there is no array of that name.
      ValueError: if it is larger, compressed in another way, or no array. A damaged archive may raise other errors.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):  # zipfile decompresses other kinds in large blocks
        raise ValueError(f"{name} is packed in a way that NumPy does not write")
    if info.file_size > max_bytes + HEADER_BYTES:
        raise ValueError(f"{name} has {info.file_size} bytes; expected at most {max_bytes}")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
