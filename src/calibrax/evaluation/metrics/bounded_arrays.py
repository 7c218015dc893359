"""Arrays of `.npz` files whose size is known beforehand: nothing larger is inflated."""

import zipfile

import numpy as np

HEADER_BYTES = 4096  # NumPy's headers of plain arrays have 128


def read_array(archive: zipfile.ZipFile, name: str, max_bytes: int) -> np.ndarray:
    """One array of an archive that `np.savez` or `np.savez_compressed` wrote; no pickle is opened.

    Args:
      archive: open for reading.
      name: the array's.
      max_bytes: of its elements.

    Raises:
      KeyError: if there is none of that name.
      ValueError: if it is larger, packed in another way, or no array. A damaged archive raises many kinds besides.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile inflates others by the block
        raise ValueError(f"{name} is packed in a way that NumPy does not write")
    if info.file_size > max_bytes + HEADER_BYTES:
        raise ValueError(f"{name} has {info.file_size} bytes; expected at most {max_bytes}")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
