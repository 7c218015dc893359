"""What the layers of a hierarchical VAE hold: samples with some layers drawn from the prior, and traversals."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from calibrax.evaluation.trained import Trained, check_temperature
from calibrax.models.hvae import HVAE, Latent

SPAN = 3.0  # posterior standard deviations that a traversal moves to both sides

Side = Literal["top", "bottom"]


class Traversal(NamedTuple):
    """Decoded images while one image's latents of one layer move along some directions.

    Attributes:
      images: [D, S, H, W, C], float32, decoder means in the data's range.
      layer: 1 at the bottom.
      dimensions: [D] channels of the latent map, or entries of the latent vector.
      offsets: [S], posterior standard deviations.
    """

    images: np.ndarray
    layer: int
    dimensions: tuple[int, ...]
    offsets: np.ndarray


def partial_samples(
    trained: Trained, images: np.ndarray, *, side: Side, key: jax.Array, temperature: float = 1.0
) -> np.ndarray:
    """E[x | z] with k layers of z drawn from the prior and the others from the posterior, for every k from 0 to L.

    Row 0 is a reconstruction, row L a sample of the whole model. All rows use the same noise: the prior's draws are
    conditional on the layers above them, and the posterior's are a single draw made upwards.

    - "bottom": the k lowest layers come from the prior, given the posterior's layers above. Row k therefore shows what
      the L - k upper layers know of an image.
    - "top": the k uppermost layers come from the prior, while the layers below stay as they were inferred. This model
      has no top-down inference, so an upper layer can reach the image past a given lower layer through the skips alone,
      and row k shows what passes through them. Without skips (`HVAE(skip=False)`) all rows but the last are equal.

    Args:
      trained: a model whose network is an `HVAE`.
      images: [N, H, W, C], uint8 or floats in [0, 1], run as one batch.
      side: which k layers come from the prior.
      key: for all noise; row 0 is `reconstruct` with this key.
      temperature: multiplies the prior's standard deviations; 0 takes the prior's means.

    Returns:
      [L + 1, N, H, W, C], float32, in the data's range.

    Raises:
      ValueError: for a model without layers, another side, no images, or a temperature that is negative or not finite.

    References:
      Havtorn et al. 2021, "Hierarchical VAEs Know What They Don't Know": reconstructions from the latents above k.
    """
    layers = _num_layers(trained)
    if side not in get_args(Side):
        raise ValueError(f"side is {side!r}; expected 'top' or 'bottom'")
    check_temperature(temperature)
    keys = jax.random.split(key, _at_least(images, 1))
    z = [latent.z for latent in _infer_function(trained.model)(trained.params["model"], images, keys)]
    from_bottom = np.arange(layers) if side == "bottom" else np.arange(layers)[::-1]
    return np.stack([_decode(trained, z, keys, from_bottom < k, temperature) for k in range(layers + 1)])


def traversal(
    trained: Trained, images: np.ndarray, *, layer: int, key: jax.Array, steps: int = 9, dimensions: int = 6
) -> Traversal:
    """E[x | z] while one dimension of one layer of an image's latents moves, and the layers below follow it.

    The latents of the first image are one draw from the posterior. The chosen dimension moves from -3 to +3 of its
    posterior standard deviations about that draw. The layers above stay, and those below take the means of their priors
    given what is above. Offset 0 is therefore not a reconstruction: it shows what the layers from `layer` upwards know
    of the image. In a latent map a dimension is a channel, which moves by its own standard deviation everywhere in
    space.

    The most active dimensions are taken. A dimension's activity is the variance of its posterior mean over the images,
    divided by the mean posterior variance, averaged over space. The ratio does not depend on the latents' scale, which
    only the top layer's prior fixes. It also counts variation due to draws of the layers below.

    Args:
      trained: a model whose network is an `HVAE`.
      images: [N, H, W, C], uint8 or floats in [0, 1], run as one batch; all of them choose the dimensions.
      layer: 1, the bottom, to L, as in the names `kl/1` ... of the metrics.
      key: for the posterior draws.
      steps: S; an odd number has the unmoved latents in its middle.
      dimensions: D, at most; the most active comes first.

    Returns:
      A `Traversal`: images [D, S, H, W, C].

    Raises:
      ValueError: for a model without layers, an argument out of its range, or fewer than two images.
    """
    layers = _num_layers(trained)
    if not 1 <= layer <= layers:
        raise ValueError(f"layer is {layer}; expected 1, the bottom, to {layers}")
    if steps < 2:
        raise ValueError(f"steps is {steps}; expected 2 or more")
    if dimensions < 1:
        raise ValueError(f"dimensions is {dimensions}; expected 1 or more")
    keys = jax.random.split(key, _at_least(images, 2))
    latents = jax.device_get(_infer_function(trained.model)(trained.params["model"], images, keys))
    moved = latents[layer - 1]
    chosen = _most_active(moved, dimensions)
    offsets = np.linspace(-SPAN, SPAN, steps, dtype=np.float32)
    repeated = [np.repeat(latent.z[:1], steps, axis=0) for latent in latents]
    step = np.exp(0.5 * moved.log_var[0])
    rows = []
    for dimension in chosen:
        z = list(repeated)
        z[layer - 1] = np.array(repeated[layer - 1])
        z[layer - 1][..., dimension] += np.multiply.outer(offsets, step[..., dimension])
        below = np.arange(layers) < layer - 1
        rows.append(_decode(trained, z, keys[np.zeros(steps, int)], below, 0.0))
    return Traversal(np.stack(rows), layer, chosen, offsets)


def _num_layers(trained: Trained) -> int:
    if not isinstance(trained.model, HVAE):
        raise ValueError(f"model is a {type(trained.model).__name__}, which has no layers of latents; expected an HVAE")
    return len(trained.model.stages)


def _at_least(images: np.ndarray, num: int) -> int:
    """The number of images, once it is known to be at least `num`."""
    if len(images) < num:
        raise ValueError(f"images holds {len(images)} examples; expected at least {num}")
    return len(images)


def _most_active(latent: Latent, num: int) -> tuple[int, ...]:
    """Dimensions of a layer, the most active first."""
    activity = np.var(latent.mean, axis=0) / np.exp(latent.log_var).mean(axis=0)
    order = np.argsort(-activity.reshape(-1, activity.shape[-1]).mean(axis=0), kind="stable")
    return tuple(order[:num].tolist())


def _decode(trained: Trained, z, keys: jax.Array, from_prior: np.ndarray, temperature: float) -> np.ndarray:
    """The likelihood's mean for these latents; layers with `from_prior` [L] True are drawn from the prior instead."""
    outputs = _decode_function(trained.model)(trained.params["model"], z, keys, temperature, from_prior)
    return np.asarray(trained.mean(outputs))


@functools.lru_cache(maxsize=8)
def _infer_function(model: HVAE) -> Callable[..., tuple[Latent, ...]]:
    infer: Any = functools.partial(model.apply, method="inference_path")
    return jax.jit(lambda params, x, keys: infer({"params": params}, x, keys))


@functools.lru_cache(maxsize=8)
def _decode_function(model: HVAE) -> Callable[..., jax.Array]:
    """Compiled once: which layers are drawn is an argument, not part of the program."""
    generate: Any = functools.partial(model.apply, method="generative_path")
    return jax.jit(lambda params, z, *args: generate({"params": params}, z, *args)[0])
