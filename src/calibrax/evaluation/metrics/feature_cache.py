"""Inception features of real images, kept on disk so that later evaluations run the network on samples alone.

A file holds the features of one set of images, with the identity of everything that they depend on. Any file may be
deleted at any time.
"""

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibrax.evaluation.metrics.inception import PREPROCESSING, to_uint8
from calibrax.evaluation.metrics.inception_weights import read_array

HASHED_AT_ONCE = 4096  # images
MAX_BYTES = 256 << 20  # of features in one file: 32,768 images of 2048
MAX_IDENTITY = 1 << 16  # bytes
FORMAT = 1


class FeaturesError(ValueError):
    """A file of features is missing, damaged, or belongs to other images or another network."""


def cache_folder() -> Path:
    """`calibrax/fid` in the user's cache directory, which is XDG_CACHE_HOME or ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "calibrax" / "fid"


def features_identity(images: np.ndarray, *, feature: int, weights: str) -> dict[str, Any]:
    """What features depend on, up to rounding errors, which differ between devices.

    Images are as in `inception.to_uint8`; `weights` is from `inception_weights.weights_digest`.
    """
    digest = hashlib.sha256()
    for start in range(0, len(images), HASHED_AT_ONCE):
        digest.update(to_uint8(images[start : start + HASHED_AT_ONCE]).tobytes())
    return {
        "images_sha256": digest.hexdigest(),
        "num": len(images),
        "image_shape": list(images.shape[1:]),
        "feature": feature,
        "weights": weights,
        "preprocessing": PREPROCESSING,
        "format": FORMAT,
    }


def cached_features(
    folder: str | Path, identity: Mapping[str, Any], compute: Callable[[], np.ndarray]
) -> tuple[np.ndarray, str | None]:
    """Features, float32 [N, feature], from the folder if it holds them; otherwise computed, and kept there.

    With them comes a note if a file could not be used or written, else None.
    """
    path, notes = features_path(folder, identity), []
    if os.path.exists(path):  # Path.exists raises if the folder may not be read
        try:
            return load_features(path, identity), None
        except FeaturesError as error:
            notes.append(f"{error}; computed anew")
    features = compute()
    if features.nbytes > MAX_BYTES:
        notes.append(f"{features.nbytes >> 20} MiB of features are not kept: more than {MAX_BYTES >> 20} MiB")
    else:
        try:
            save_features(path, features, identity)
        except OSError as error:
            notes.append(f"features are not kept, as {path} cannot be written: {error}".replace("\n", " "))
    return features, "; ".join(notes) or None


def features_path(folder: str | Path, identity: Mapping[str, Any]) -> Path:
    """The file for features of this identity."""
    return Path(folder) / f"features-{hashlib.sha256(_text(identity).encode()).hexdigest()[:16]}.npz"


def save_features(path: str | Path, features: np.ndarray, identity: Mapping[str, Any]) -> None:
    """Write features with their identity as `.npz`; the file appears only once it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            np.savez(file, features=features, identity=np.array(_text(identity)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_features(path: str | Path, identity: Mapping[str, Any]) -> np.ndarray:
    """Read features of exactly this identity, float32 [N, feature].

    Raises:
      FeaturesError: if the file is missing or damaged, or its identity differs in any entry.
    """
    path, wanted = Path(path), json.loads(_text(identity))
    shape = wanted["num"], wanted["feature"]
    try:
        # The archive's checksums detect damage; the check of the shape below detects a file that is too short.
        with zipfile.ZipFile(path) as archive:
            found = dict(json.loads(str(read_array(archive, "identity", MAX_IDENTITY))))
            features = read_array(archive, "features", 4 * math.prod(shape)) if found == wanted else None
    except Exception as error:  # a damaged archive can raise anything
        raise FeaturesError(f"{path} cannot be read as features: {error}".replace("\n", " ")) from error
    if features is None:
        differ = ", ".join(name for name in {**wanted, **found} if found.get(name) != wanted.get(name))
        raise FeaturesError(f"{path} holds features of other images: it differs in {differ}".replace("\n", " "))
    if features.dtype != np.float32 or features.shape != shape:
        raise FeaturesError(f"{path} holds damaged features: {features.dtype} of shape {features.shape}")
    return features


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps(dict(identity), sort_keys=True)
