"""Prepared data sets in the layout of TensorFlow Datasets: array_record is written, that and tfrecord are read.

Neither takes TensorFlow.
"""

import contextlib
import io
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibrax.data.tfrecord import TFRecords
from calibrax.data.transforms import View
from calibrax.data.types import DataError, readable

FORMATS = ("array_record", "tfrecord")  # the first is preferred, the second is TFDS's default
READ_AT_ONCE = 4096  # images


def prepare(name: str, splits: dict[str, np.ndarray], data_dir: Path, *, license: str) -> None:
    """Write all splits as the TFDS data set `prepared_name(name)` under `data_dir`, or nothing after an error."""
    import tensorflow_datasets as tfds

    shape = next(iter(splits.values())).shape[1:]

    class Images(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Images as raw tensors. TFDS needs TensorFlow to encode images, and for its own `AdhocBuilder`."""

        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{name} from its original files, as raw uint8 tensors.",
                features=tfds.features.FeaturesDict({"image": tfds.features.Tensor(shape=shape, dtype=np.uint8)}),
                license=license,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {split: self._generate_examples(images) for split, images in splits.items()}

        def _generate_examples(self, images):
            for index, image in enumerate(images):
                yield index, {"image": image}

    Images.name = prepared_name(name)
    try:
        with quiet():
            Images(data_dir=str(data_dir), file_format="array_record").download_and_prepare()
    except OSError as error:
        raise DataError(f"cannot prepare {name} in {data_dir}: {error.strerror or error}") from error


def prepared_name(name: str) -> str:
    """The name of this project's own preparation of a data set, which is not that of TFDS's."""
    return f"{name}_images"


def read_prepared(folder_name: str, data_dir: Path) -> tuple[dict[str, np.ndarray], str] | None:
    """The splits of a prepared data set and the folder that holds it; None if there is none in one of `FORMATS`.

    This reads any TFDS data set with the feature `image`, raw or encoded, and the splits train and test. The split
    validation is read too if there is one.

    Raises:
      DataError: if a file is damaged, or a split is missing.
    """
    builder = find_builder(folder_name, data_dir)
    if builder is None:
        return None
    with quiet():
        return {split: _read_split(builder, split) for split in split_names(builder)}, str(builder.data_path)


def find_builder(folder_name: str, data_dir: Path, feature: str = "image") -> Any | None:
    """TFDS's builder of the newest version that has this feature, or None: of array_record, or else of tfrecord."""
    versions = sorted((data_dir / folder_name).glob("**/dataset_info.json"), reverse=True)
    for file_format, info in itertools.product(FORMATS, versions):
        if not any(info.parent.glob(f"*.{file_format}*")):
            continue
        import tensorflow_datasets as tfds

        with quiet(), readable(str(info.parent)):
            _check_features(info.with_name("features.json"))
            builder = tfds.builder_from_directory(str(info.parent))
            features: Any = builder.info.features or {}
        if feature in features:
            return builder
    return None


def _check_features(path: Path) -> None:
    """Refuse features whose classes are not TFDS's own, since TFDS would import their modules and run their code."""
    for name in _class_names(json.loads(path.read_text(encoding="utf-8"))):
        if not name.startswith("tensorflow_datasets."):
            raise ValueError(f"{path.name} asks for {name}; expected features of TFDS alone")


def _class_names(value: Any) -> Iterator[str]:
    """The class names in a `features.json` of either of TFDS's two layouts. Its strings may hold JSON in turn."""
    if isinstance(value, str):
        with contextlib.suppress(json.JSONDecodeError):
            inner = json.loads(value)
            yield from _class_names(inner) if isinstance(inner, dict | list) else ()
    elif isinstance(value, list):
        for item in value:
            yield from _class_names(item)
    elif isinstance(value, dict):
        names = ("pythonClassName", "python_class_name", *(("type",) if "content" in value else ()))
        yield from (value[name] for name in names if isinstance(value.get(name), str))
        yield from _class_names(list(value.values()))


def split_names(builder, required: Iterable[str] = ("train", "test")) -> list[str]:
    """The splits train, validation and test, as far as a builder has them; DataError if a required one is missing."""
    for split in required:
        if split not in builder.info.splits:
            raise DataError(f"{builder.data_path} has no split '{split}'")
    return [split for split in ("train", "validation", "test") if split in builder.info.splits]


def examples_of(builder, split: str, decoders: dict[str, Any] | None = None) -> Any:
    """The examples of a split by index, decoded by TFDS; the records of tfrecord are found without TensorFlow."""
    info = builder.info
    if "array_record" in {file_format.value for file_format in info.available_file_formats()}:
        return builder.as_data_source(split, decoders=decoders)
    records = TFRecords(Path(path) for path in info.splits[split].filepaths)
    if len(records) != info.splits[split].num_examples:
        raise ValueError(f"it holds {len(records)} records; expected {info.splits[split].num_examples}")
    return View(records, lambda record: info.features.deserialize_example_np(record, decoders=decoders))


def image_of(example: dict[str, Any], feature: str = "image") -> Any:
    """The image of one example; ValueError if it is None, as when array_record found nothing to read."""
    if example[feature] is None:
        raise ValueError("empty record, as in a file cut short")
    return example[feature]


def _read_split(builder, split: str) -> np.ndarray:
    images: list[np.ndarray] = []
    with readable(f"{builder.data_path}: split '{split}'"):
        source = examples_of(builder, split)
        for start in range(0, len(source), READ_AT_ONCE):
            some = range(start, min(start + READ_AT_ONCE, len(source)))
            examples = map(source.__getitem__, some) if isinstance(source, View) else source.__getitems__(some)
            images += [np.asarray(image_of(example)) for example in examples]
        return np.stack(images)


@contextlib.contextmanager
def quiet():
    """Hide TFDS's own messages and progress bars, which announce downloads that do not happen."""
    import tensorflow_datasets as tfds

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            tfds.disable_progress_bar()
            yield
    finally:
        logger.setLevel(level)
        tfds.enable_progress_bar()
