"""The published weights tell real images from noise; only where the environment names a folder with them."""

import numpy as np

from calibrax.evaluation.metrics import distances, inception, inception_weights


def test_real_weights_on_real_images(real_data):
    params = inception_weights.load_weights(real_data / "inception_2015_to_mixed_7.npz", 768)
    with np.load(real_data / "svhn_subset.npz") as archive:
        images = archive["test"][:80]
    noise = np.random.default_rng(0).integers(0, 256, (20, *images.shape[1:]), dtype=np.uint8)
    images = np.concatenate([images, noise])
    features = inception.features(params, images, feature=768, batch_size=20)
    assert features.shape == (100, 768)
    assert np.isfinite(features).all()
    assert features.min() >= 0

    def distance(a, b):
        return distances.frechet_distance(distances.moments(features[a]), distances.moments(features[b]))

    few, more = distance(slice(0, 20), slice(20, 40)), distance(slice(0, 40), slice(40, 80))
    to_noise = distance(slice(0, 20), slice(80, 100))
    assert few.name == "FID-768"
    assert more.value < 0.8 * few.value
    assert to_noise.value > 2 * few.value
    same = distances.kid(features[:40], features[40:80], subsets=50, subset_size=20)
    other = distances.kid(features[:80], features[80:], subsets=50, subset_size=10)
    assert abs(same.mean) < 4 * same.stderr
    assert other.mean > 10 * abs(same.mean)
