"""FID and KID of a trained model: its samples, or its predicted frames, against test images."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from calibrax.evaluation.metric import Metric, Record, Subject, with_stderr
from calibrax.evaluation.metrics import feature_cache, inception, inception_weights
from calibrax.evaluation.metrics.distances import frechet_distance, kid, moments
from calibrax.evaluation.metrics.prediction import predicted_frames
from calibrax.evaluation.trained import Trained, generate

MIN_IMAGES = 4


@dataclasses.dataclass(frozen=True)
class FidOptions:
    """FID and KID."""

    inception: str | None = None
    """Inception's weights for FID and KID: the published .pth, an .npz of folded arrays (FID-768), or download."""
    fid_images: int = 0
    """Test images or videos, from the first on, for FID and KID, against as many samples; 0: all."""

    def __post_init__(self):
        if self.fid_images and self.inception is None:
            raise ValueError(f"--fid-images is {self.fid_images}, but FID and KID are measured with --inception alone")


def feature_of(weights: str) -> int:
    """The number of features that weights give: 2048, or 768 for folded arrays, which end there."""
    return 768 if Path(weights).suffix == ".npz" else 2048


def check_fid_images(fid_images: int, num_test: int) -> None:
    """Raise ValueError, in one line, unless FID can be measured on so many of the test images; 0 stands for all."""
    if fid_images and not MIN_IMAGES <= fid_images <= num_test:
        raise ValueError(f"--fid-images is {fid_images}; expected 0, or {MIN_IMAGES} to {num_test}, the test images")


def _check(options: FidOptions, num_test: int) -> None:
    check_fid_images(options.fid_images, num_test)
    if options.inception is not None and num_test < MIN_IMAGES:
        few = f"{num_test} test images are too few for FID and KID"
        raise ValueError(f"--inception: {few}; expected at least {MIN_IMAGES}")


def _measure(options: FidOptions, subject: Subject) -> Record:
    """FID and KID on 2048 features, or on 768 with folded weights.

    Images are compared with as many samples (decoder means). Of videos, all frames after the given ones are compared,
    as single images, with those of one sample per clip. The test images' features are cached.
    """
    examples: np.ndarray = subject.examples[: options.fid_images or None]
    weights: Any = options.inception
    feature = feature_of(weights)
    params = inception_weights.load_weights(weights, feature)
    digest = inception_weights.weights_digest(params)
    network = functools.partial(inception.features, params, feature=feature)
    extra = {}
    if subject.past is None:
        real, made = examples, _samples(subject.trained, len(examples), subject.key)
    else:
        given = {"past": subject.past, "key": subject.key, "batch_size": subject.batch_size}
        real, made = predicted_frames(subject.trained, examples, **given)
        num, length = examples.shape[:2]
        frames = f"frames {subject.past + 1} to {length} of {num:,} clips, one sample each"
        extra = {"frames": frames, "clips": num}
    identity = feature_cache.features_identity(real, feature=feature, weights=digest)
    a, note = feature_cache.cached_features(feature_cache.cache_folder(), identity, lambda: network(real))
    b = network(made)
    distance, kernel = frechet_distance(moments(a), moments(b)), kid(a, b)
    return {"fid": distance, "kid": kernel, "weights": digest, "note": note} | extra


def _samples(trained: Trained, num: int, key: jax.Array) -> np.ndarray:
    """Decoder means for draws of the prior, uint8 [num, H, W, C]."""
    batches = [
        generate(trained, min(500, num - start), key=jax.random.fold_in(key, start)) for start in range(0, num, 500)
    ]
    return inception.to_uint8(np.concatenate(batches))


def _lines(record: Record) -> Iterator[str]:
    distance, kernel = record["fid"], record["kid"]
    counts = f"{distance['num_a']:,} images, {distance['num_b']:,} samples"
    mmd = f"{kernel['name']} {with_stderr(kernel['mean'], kernel['stderr'], '{:.5f}')}"
    counts = f"{counts}: {record['frames']}" if "frames" in record else counts
    yield f"{distance['name']} {with_stderr(distance['value'], None, '{:.2f}')}, {mmd} ({counts})"
    yield from (f"  note: {note}" for note in (distance["note"], kernel["note"], record["note"]) if note)


def _columns(record: Record) -> dict[str, str]:
    """Under the names that were stored: distances of other features, such as FID-768, are other numbers."""
    distance, kernel = record["fid"], record["kid"]
    kid_cell = with_stderr(kernel["mean"], kernel["stderr"], "{:.5f}")
    return {distance["name"]: with_stderr(distance["value"], None, "{:.2f}"), kernel["name"]: kid_cell}


def _caveats(records: list[Record]) -> list[str]:
    counts = {tuple(record["fid"][name] for name in ("name", "num_a", "num_b")) for record in records}
    several = len(counts) > len({name for name, *_ in counts})
    return ["FID depends on the number of images, which differs between these runs"] if several else []


METRIC = Metric(
    "fid",
    _measure,
    _lines,
    progress=lambda options: "FID and KID",
    options=FidOptions,
    applies=lambda options, subject: options.inception is not None,
    check=_check,
    columns=_columns,
    caveats=_caveats,
    not_measured="FID and KID: not measured, as they need Inception's weights (--inception FILE, or download)",
)
