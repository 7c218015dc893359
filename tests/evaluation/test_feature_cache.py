"""Features kept on disk are used only for what they belong to, and computed again if anything is wrong."""

import numpy as np
import pytest

from calibrax.evaluation.metrics import feature_cache
from calibrax.evaluation.metrics.feature_cache import FeaturesError, cached_features, features_identity, load_features

OPTIONS = {"feature": 6, "weights": "abc"}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)


@pytest.fixture
def kept(images, tmp_path):
    """A folder, the identity of what it holds, those features and their file."""
    identity, folder = features_identity(images, **OPTIONS), tmp_path / "cache" / "fid"
    values = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    features, note = cached_features(folder, identity, lambda: values)
    assert features is values
    assert note is None
    return folder, identity, values, feature_cache.features_path(folder, identity)


def computed():
    pytest.fail("computed")


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def test_kept_features_come_back_to_the_bit(kept):
    folder, identity, values, path = kept
    features, note = cached_features(folder, identity, computed)
    assert note is None
    assert_same(features, values)
    assert list(folder.iterdir()) == [path]


def test_the_identity_is_of_pixels_network_and_feature(images):
    identity = features_identity(images, **OPTIONS)
    assert features_identity(images / np.float32(255), **OPTIONS) == identity
    changed = images.copy()
    changed[3, 2, 1, 0] ^= 1
    others = {
        "pixel": features_identity(changed, **OPTIONS),
        "fewer": features_identity(images[:19], **OPTIONS),
        "shape": features_identity(images.reshape(20, 2, 8, 1), **OPTIONS),
        "weights": features_identity(images, **{**OPTIONS, "weights": "def"}),
        "feature": features_identity(images, **{**OPTIONS, "feature": 7}),
    }
    paths = {feature_cache.features_path("", other) for other in (identity, *others.values())}
    assert len(paths) == 1 + len(others)


def test_features_of_several_image_sets_are_kept_side_by_side(kept, images):
    folder, identity, values, _ = kept
    fewer = features_identity(images[:9], **OPTIONS)
    features, note = cached_features(folder, fewer, lambda: values[:9])
    assert note is None
    assert_same(features, values[:9])
    assert len(list(folder.iterdir())) == 2
    assert_same(cached_features(folder, fewer, computed)[0], values[:9])
    assert_same(cached_features(folder, identity, computed)[0], values)


def test_a_file_of_other_images_is_refused(kept, images):
    folder, _, values, path = kept
    for differ, other in {
        "weights": features_identity(images, **{**OPTIONS, "weights": "def"}),
        "images_sha256, num": features_identity(images[:19], **OPTIONS),
    }.items():
        with pytest.raises(FeaturesError, match=f"features of other images: it differs in {differ}$"):
            load_features(path, other)
        elsewhere = feature_cache.features_path(folder, other)
        elsewhere.write_bytes(path.read_bytes())
        _, note = cached_features(folder, other, lambda num=other["num"]: values[:num])
        assert note is not None
        assert note.endswith(f"it differs in {differ}; computed anew")
        assert_same(load_features(elsewhere, other), values[: other["num"]])


def test_a_truncated_file_is_computed_again(kept):
    folder, identity, values, path = kept
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        features, note = cached_features(folder, identity, lambda: values)
        assert features is values
        assert note is not None
        assert note.endswith("computed anew")
        assert "\n" not in note
        assert_same(load_features(path, identity), values)


def assert_no_changed_byte_changes_features(kept, step):
    """Every `step`-th byte: a change is refused, or harmless, as in the archive's times; in the features refused."""
    _, identity, values, path = kept
    whole = path.read_bytes()
    begin = whole.index(values.tobytes())
    refused = []
    for place in range(0, len(whole), step):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = load_features(path, identity)
        except FeaturesError:
            refused.append(place)
        else:
            assert_same(found, values)
    assert set(range(begin, begin + values.nbytes)) & set(range(0, len(whole), step)) <= set(refused)
    assert len(refused) > 0.8 * len(whole) / step


def test_no_changed_byte_changes_features(kept):
    """`tests/robustness/test_feature_cache_damage.py` changes every byte."""
    assert_no_changed_byte_changes_features(kept, 23)


def test_features_of_another_shape_or_dtype_are_refused(kept):
    _, identity, values, path = kept
    for damaged in (values[:5], values.T, values.astype(np.float64)):
        feature_cache.save_features(path, damaged, identity)
        with pytest.raises(FeaturesError, match=r"holds damaged features: float\d\d of shape"):
            load_features(path, identity)


def test_a_folder_that_cannot_be_written_is_a_note(kept, tmp_path):
    _, identity, values, _ = kept
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        features, note = cached_features(folder, identity, lambda: values)
        assert features is values
        assert note is not None
        assert "cannot be written" in note
        assert "\n" not in note


def test_too_much_is_not_kept(kept, tmp_path, monkeypatch):
    _, identity, values, _ = kept
    monkeypatch.setattr(feature_cache, "MAX_BYTES", values.nbytes - 1)
    features, note = cached_features(tmp_path / "new", identity, lambda: values)
    assert features is values
    assert note is not None
    assert "are not kept" in note
    assert not (tmp_path / "new").exists()


def test_the_folder_is_the_user_s_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, base in ((str(tmp_path / "x"), tmp_path / "x"), ("", tmp_path / ".cache"), ("x", tmp_path / ".cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert feature_cache.cache_folder() == base / "calibrax" / "fid"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert feature_cache.cache_folder() == tmp_path / ".cache" / "calibrax" / "fid"
