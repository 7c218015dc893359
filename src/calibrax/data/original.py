"""Published data sets of images that are read from their original files."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calibrax.data.download import Remote, fetch
from calibrax.data.tfds_cache import prepare, prepared_name, read_prepared
from calibrax.data.types import Data, DataError, Options

MAX_BYTES = 1 << 28  # of a file after decompression; the largest array, SVHN's training images, has 225,045,504


class Original(NamedTuple):
    """A published data set."""

    name: str  # in `load`, runs and reports
    remotes: dict[str, Remote]  # the original files, by their paths in the data folder
    read: Callable[[Path], dict[str, np.ndarray]]  # returns the splits, given the data folder
    license: str  # a note on the terms of use
    tfds_name: str  # the name under which TFDS itself prepares the data set

    def load(self, options: Options) -> Data:
        """Read prepared data, or else the original files, which are downloaded if necessary and then prepared.

        Raises:
          DataError: if the data is neither in the data folder nor online, or is damaged.
        """
        folder = options.data_dir
        for prepared in (prepared_name(self.name), self.tfds_name):
            found = read_prepared(prepared, folder)
            if found is not None:
                splits, origin = found
                return Data(self.name, **splits, license=self.license, origin=origin)
        self._fetch_missing(options)
        splits = self.read(folder)
        data = Data(self.name, **splits, license=self.license, origin=f"original files in {folder}")
        # Without array_record, which some systems lack, the original files are read each time.
        with contextlib.suppress(ImportError):
            prepare(self.name, splits, folder, license=self.license)
        return data

    def _fetch_missing(self, options: Options) -> None:
        folder = options.data_dir
        ways = (
            f"Ways to get it: put {' and '.join(self.remotes)} into {folder} (or another --data-dir); run `calibrax "
            f"data {self.name}` where there is a network; or give your own images as --data images.npz"
        )
        missing = [file for file in self.remotes if not (folder / file).is_file()]
        if missing and not options.download:
            raise DataError(f"{self.name} is not in {folder}. {ways}")
        try:
            for file in missing:
                fetch(self.remotes[file], folder / file, timeout=options.timeout)
        except DataError as error:
            raise DataError(f"{self.name} is neither in {folder} nor online: {error}. {ways}") from error
        except OSError as error:
            raise DataError(f"{self.name} cannot be kept in {folder}: {error.strerror or error}") from error
