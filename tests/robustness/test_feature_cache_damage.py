"""A file of features with any one byte changed is refused, or gives the same features."""

from test_feature_cache import assert_no_changed_byte_changes_features, images, kept

__all__ = ["images", "kept"]  # fixtures


def test_no_changed_byte_changes_features(kept):
    assert_no_changed_byte_changes_features(kept, 1)
