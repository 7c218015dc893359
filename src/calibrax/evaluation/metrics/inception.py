"""Features of the 2015-12-05 Inception network, equal to pytorch-fid's, for FID and KID.

It is written out here because FID's network differs from every library's Inception v3: in its weights, in pooling that
leaves out the padding, and in the maximum pool of the last block. The network is frozen, so batch norm is folded: every
layer is a convolution, a bias and a ReLU. Its weights come from `inception_weights`.

Shapes: images [N, H, W, C], kernels [kh, kw, in, out], features [N, D].
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calibrax.training.devices import AXIS, compiler_options

FEATURES = (64, 192, 768, 2048)  # after the first max pool, the second, Mixed_6e, Mixed_7c
SIZE = 299  # pixels, height and width
PREPROCESSING = "uint8, bilinear to 299x299 with half-pixel centres and no antialias, [-1, 1]; version 1"

Params = Mapping[str, Any]


def _conv(x, name: str, features: int, kernel: int | tuple[int, int], stride: int = 1, padding: str | None = None):
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = padding or ("SAME" if stride == 1 else "VALID")
    # Accelerators would otherwise round to TF32 or bfloat16, which changes the distance.
    return nn.relu(nn.Conv(features, size, stride, padding, precision=lax.Precision.HIGHEST, name=name)(x))


def _chain(x, name: str, *layers: tuple):
    """Convolutions name_1, name_2, ... in turn; a layer is (features, kernel) or (features, kernel, stride)."""
    for number, layer in enumerate(layers, 1):
        x = _conv(x, f"{name}_{number}", *layer)
    return x


def _max_pool(x):
    return nn.max_pool(x, (3, 3), (2, 2))


def _average_pool(x):
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _join(*branches):
    return jnp.concatenate(branches, axis=-1)


class BlockA(nn.Module):
    """35×35, to 224 + `pool_features` channels."""

    pool_features: int

    @nn.compact
    def __call__(self, x):
        return _join(
            _conv(x, "branch1x1", 64, 1),
            _chain(x, "branch5x5", (48, 1), (64, 5)),
            _chain(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3)),
            _conv(_average_pool(x), "branch_pool", self.pool_features, 1),
        )


class BlockB(nn.Module):
    """35×35×288 to 17×17×768."""

    @nn.compact
    def __call__(self, x):
        return _join(
            _conv(x, "branch3x3", 384, 3, stride=2),
            _chain(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3, 2)),
            _max_pool(x),
        )


class BlockC(nn.Module):
    """17×17×768; the 7×7 convolutions are factored into rows and columns of `features` channels."""

    features: int

    @nn.compact
    def __call__(self, x):
        c, row, column = self.features, (1, 7), (7, 1)
        return _join(
            _conv(x, "branch1x1", 192, 1),
            _chain(x, "branch7x7", (c, 1), (c, row), (192, column)),
            _chain(x, "branch7x7dbl", (c, 1), (c, column), (c, row), (c, column), (192, row)),
            _conv(_average_pool(x), "branch_pool", 192, 1),
        )


class BlockD(nn.Module):
    """17×17×768 to 8×8×1280."""

    @nn.compact
    def __call__(self, x):
        return _join(
            _chain(x, "branch3x3", (192, 1), (320, 3, 2)),
            _chain(x, "branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)),
            _max_pool(x),
        )


class BlockE(nn.Module):
    """8×8, to 2048 channels; the last block of FID's network pools with the maximum instead of the average."""

    pool: Callable[[Any], Any]

    @nn.compact
    def __call__(self, x):
        single = _chain(x, "branch3x3", (384, 1))
        double = _chain(x, "branch3x3dbl", (448, 1), (384, 3))
        return _join(
            _conv(x, "branch1x1", 320, 1),
            _conv(single, "branch3x3_2a", 384, (1, 3)),
            _conv(single, "branch3x3_2b", 384, (3, 1)),
            _conv(double, "branch3x3dbl_3a", 384, (1, 3)),
            _conv(double, "branch3x3dbl_3b", 384, (3, 1)),
            _conv(self.pool(x), "branch_pool", 192, 1),
        )


class Inception(nn.Module):
    """The network up to one of pytorch-fid's four outputs, averaged over space.

    Folded, it has 21,768,352 parameters up to 2048 features. Names are torchvision's.

    Example:
      >>> values = Inception(2048).apply({"params": params}, preprocess(images))  # [B, 2048]

    References:
      Szegedy et al. 2016, "Rethinking the Inception architecture"; the FID variant from mseitzer/pytorch-fid.
    """

    feature: int  # 64, 192, 768 or 2048

    @nn.compact
    def __call__(self, x):
        x = _conv(x, "Conv2d_1a_3x3", 32, 3, stride=2)
        x = _conv(x, "Conv2d_2a_3x3", 32, 3, padding="VALID")
        x = _max_pool(_conv(x, "Conv2d_2b_3x3", 64, 3))
        if self.feature >= 192:
            x = _conv(x, "Conv2d_3b_1x1", 80, 1)
            x = _max_pool(_conv(x, "Conv2d_4a_3x3", 192, 3, padding="VALID"))
        if self.feature >= 768:
            for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
                x = BlockA(pool_features, name=f"Mixed_5{letter}")(x)
            x = BlockB(name="Mixed_6a")(x)
            for letter, features in zip("bcde", (128, 160, 160, 192), strict=True):
                x = BlockC(features, name=f"Mixed_6{letter}")(x)
        if self.feature >= 2048:
            x = BlockD(name="Mixed_7a")(x)
            x = BlockE(_average_pool, name="Mixed_7b")(x)
            x = BlockE(lambda h: nn.max_pool(h, (3, 3), padding="SAME"), name="Mixed_7c")(x)
        return jnp.mean(x, axis=(1, 2))


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images as pytorch-fid reads them from files: uint8 as it is, floats in [0, 1] as round(255·x), clipped.

    Raises:
      ValueError: if the shape is not [N, H, W, 1 or 3], the dtype is another integer, or a value is NaN.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(f"images has shape {images.shape}; expected [N, H, W, C] with 1 or 3 channels")
    if images.dtype == np.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images has dtype {images.dtype}; expected uint8, or floats in [0, 1]")
    values = images.astype(np.float32)
    if np.isnan(values).any():
        raise ValueError("images holds NaN; expected floats in [0, 1]")
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def preprocess(images: jax.Array) -> jax.Array:
    """uint8 [B, H, W, 1 or 3] to the network's input, float32 [B, 299, 299, 3] in [-1, 1]."""
    shape = (images.shape[0], SIZE, SIZE, images.shape[-1])
    resized = jax.image.resize(images.astype(jnp.float32) / 255, shape, "bilinear", antialias=False)
    return jnp.broadcast_to(2 * resized - 1, (*shape[:3], 3))


def features(params: Params, images: np.ndarray, *, feature: int, batch_size: int = 50) -> np.ndarray:
    """The features of images as in `to_uint8`, float32 [N, feature]; all devices share each batch.

    One shape compiles: the last batch is padded, and the padding's features are dropped. `params` are those of
    `load_weights` for this feature. The batch size is that of all devices together, rounded up to a multiple of their
    number.

    Raises:
      ValueError: if there are no images, or feature or batch_size is out of range.

    Example:
      >>> params = load_weights("pt_inception-2015-12-05-6726825d.pth", 2048)
      >>> moments = distances.moments(features(params, images, feature=2048))
    """
    check_feature(feature)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    if len(images) == 0:
        raise ValueError("images is empty; expected at least one image")
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    spread = NamedSharding(mesh, PartitionSpec(AXIS))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    forward, size = _forward_function(feature), -(-min(batch_size, len(images)) // mesh.size) * mesh.size
    done, running = [], None
    for start in range(0, len(images), size):
        batch = to_uint8(images[start : start + size])
        batch = np.pad(batch, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
        following = forward(params, jax.device_put(batch, spread))
        if running is not None:  # fetched once the next batch has started, so that the devices never wait for the host
            done.append(np.asarray(running))
        running = following
    return np.concatenate([*done, np.asarray(running)])[: len(images)]


@functools.lru_cache(maxsize=4)
def parameter_shapes(feature: int) -> dict[str, tuple[int, int, int, int]]:
    """Each layer's name, such as `Mixed_5b.branch1x1`, and the shape of its kernel, [kh, kw, in, out]."""
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    shapes: Any = jax.eval_shape(Inception(feature).init, jax.random.key(0), image)
    flat: dict[str, Any] = flatten_dict(shapes["params"], sep=".")
    return {name.removesuffix(".kernel"): leaf.shape for name, leaf in flat.items() if name.endswith(".kernel")}


def check_feature(feature: int) -> None:
    if feature not in FEATURES:
        raise ValueError(f"feature is {feature}; expected one of {', '.join(map(str, FEATURES))}")


@functools.lru_cache(maxsize=4)
def _forward_function(feature: int) -> Callable[[Params, jax.Array], jax.Array]:
    def forward(params, images):
        values: Any = Inception(feature).apply({"params": params}, preprocess(images))
        return values

    return jax.jit(forward, compiler_options=compiler_options())
