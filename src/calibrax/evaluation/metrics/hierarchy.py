"""What the layers of a hierarchical VAE hold: samples with some layers from the prior, traversals, each layer's KL."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from calibrax.evaluation.metrics.likelihood import Trained, example_batches
from calibrax.models.hvae import HVAE, Latent

Side = Literal["top", "bottom"]


class Traversal(NamedTuple):
    """One image's latents of one layer, moved along some directions, decoded."""

    images: np.ndarray  # [D, S, H, W, C], float32, decoder means in the data's range
    layer: int  # 1 at the bottom
    dimensions: tuple[int, ...]  # [D] channels of the latent map, or entries of the latent vector
    offsets: np.ndarray  # [S], posterior standard deviations


def partial_samples(
    trained: Trained, images: np.ndarray, *, side: Side, key: jax.Array, temperature: float = 1.0
) -> np.ndarray:
    """E[x | z] with k layers of z drawn from the prior and the others from the posterior, for every k from 0 to L.

    Row 0 is a reconstruction, row L a sample of the whole model. The prior's draws are conditional on the layers above
    them, and of the same noise in every row; the posterior's are one draw made upwards, the same in every row.

    - "bottom": the k lowest from the prior, given the posterior's layers above. What of an image is left in row k is
      what its L - k upper layers know.
    - "top": the k uppermost from the prior, above layers that stay as they were inferred. This model has no top-down
      inference, and nothing but the skips leads from an upper layer around a lower one that is given: row k shows what
      passes by the skips. Without them (`HVAE(skip=False)`) all rows but the last are the same.

    Args:
      trained: a model whose network is an `HVAE`.
      images: [N, H, W, C], uint8 or floats in [0, 1], run as one batch.
      side: which k layers come from the prior.
      key: for all noise; row 0 is `reconstruct` with this key.
      temperature: what multiplies the prior's standard deviations; 0 takes the prior's means.

    Returns:
      [L + 1, N, H, W, C], float32, in the data's range.

    Raises:
      ValueError: for a model without layers, another side, no images, or a negative temperature.

    References:
      Havtorn et al. 2021, "Hierarchical VAEs Know What They Don't Know": reconstructions from the latents above k.
    """
    layers = _num_layers(trained)
    if side not in get_args(Side):
        raise ValueError(f"side is {side!r}; expected 'top' or 'bottom'")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a number from 0")
    keys = jax.random.split(key, _at_least(images, 1))
    z = [latent.z for latent in _infer_function(trained.model)(trained.params["model"], images, keys)]
    from_bottom = np.arange(layers) if side == "bottom" else np.arange(layers)[::-1]
    return np.stack([_decode(trained, z, keys, from_bottom < k, temperature) for k in range(layers + 1)])


def traversal(
    trained: Trained,
    images: np.ndarray,
    *,
    layer: int,
    key: jax.Array,
    index: int = 0,
    steps: int = 9,
    span: float = 3.0,
    dimensions: int | Sequence[int] = 6,
) -> Traversal:
    """E[x | z] while one dimension of one layer of an image's latents moves, the layers below following it.

    The image's latents are one draw from the posterior. The chosen dimension moves from -span to +span of its posterior
    standard deviations about that draw; the layers above stay, those below take the means of their priors given what
    is above. At offset 0 the image is so no reconstruction, but what the layers from `layer` upwards know of it. In a
    latent map a dimension is a channel, and moves by its own standard deviation everywhere in space at once.

    A number of dimensions means the most active ones: those whose posterior mean varies most from image to image,
    measured against the noise of the posterior: the variance of the mean over the images, divided by the mean posterior
    variance, averaged over space. The ratio is free of the latents' scale, which no layer but the top has fixed. It
    counts what varies with the draws of the layers below, too.

    Args:
      trained: a model whose network is an `HVAE`.
      images: [N, H, W, C], uint8 or floats in [0, 1], run as one batch; all of them choose the dimensions.
      layer: 1, the bottom, to L, as in the names `kl/1` ... of the metrics.
      key: for the posterior draws.
      index: which of the images moves.
      steps: S; an odd number has the unmoved latents in its middle.
      span: posterior standard deviations, to both sides.
      dimensions: how many, most active first; or which, from 0.

    Raises:
      ValueError: for a model without layers, an argument out of its range, or fewer than two images to choose
        dimensions by.
    """
    layers = _num_layers(trained)
    if not 1 <= layer <= layers:
        raise ValueError(f"layer is {layer}; expected 1, the bottom, to {layers}")
    if steps < 2:
        raise ValueError(f"steps is {steps}; expected 2 or more")
    if not 0 < span < math.inf:
        raise ValueError(f"span is {span}; expected a positive number of standard deviations")
    num = _at_least(images, 2 if isinstance(dimensions, int) else 1)
    if not 0 <= index < num:
        raise ValueError(f"index is {index}; expected 0 to {num - 1}")
    keys = jax.random.split(key, num)
    latents = jax.device_get(_infer_function(trained.model)(trained.params["model"], images, keys))
    moved = latents[layer - 1]
    chosen = _chosen_dimensions(moved, dimensions)
    offsets = np.linspace(-span, span, steps, dtype=np.float32)
    repeated = [np.repeat(latent.z[index : index + 1], steps, axis=0) for latent in latents]
    step = np.exp(0.5 * moved.log_var[index])
    rows = []
    for dimension in chosen:
        z = list(repeated)
        z[layer - 1] = np.array(repeated[layer - 1])
        z[layer - 1][..., dimension] += np.multiply.outer(offsets, step[..., dimension])
        below = np.arange(layers) < layer - 1
        rows.append(_decode(trained, z, keys[np.full(steps, index)], below, 0.0))
    return Traversal(np.stack(rows), layer, chosen, offsets)


def layer_kls(trained: Trained, images: np.ndarray, *, key: jax.Array, batch_size: int = 256) -> np.ndarray:
    """log q(z_l) - log p(z_l) of one posterior draw, for every image and layer: how the rate splits.

    Without free bits. Inference runs upwards, so that both densities depend on draws of the layers around: the sum over
    layers is an estimate of KL(q(z|x) || p(z)), but one layer's share may be negative, in the mean too, where the
    prior, which sees the layer above, knows a layer's draw better than its own posterior does.

    Args:
      trained: a model whose network is an `HVAE`.
      images: [N, H, W, C], uint8 or floats in [0, 1].
      key: for the draws; each example folds in its index, as in `evaluate_likelihood`.
      batch_size: examples at once.

    Returns:
      [N, L], float32, nats, bottom first.

    Raises:
      ValueError: for a model without layers, no images, or a batch size under 1.
    """
    _num_layers(trained)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    size = min(batch_size, _at_least(images, 1))
    score = _kl_function(trained.model)
    kls = []
    for batch, keys in example_batches(images, key, size):
        filled = np.minimum(np.arange(size), len(batch) - 1)  # of one size: a deep model compiles for minutes a shape
        kls.append(np.asarray(score(trained.params["model"], batch[filled], keys[filled]))[: len(batch)])
    return np.concatenate(kls)


def active_layers(kls: np.ndarray, *, free_bits: float, threshold: float = 1.0) -> np.ndarray:
    """Whether a layer tells more of an image than training made it: its mean KL is over `free_bits + threshold`.

    Up to its free bits a layer's KL costs the objective nothing. A layer found there would be there whether the decoder
    reads it or not, so only what it spends beyond them counts. Such a layer's mean is somewhere about the floor: under
    it, as max(KL, free bits) of single draws holds down the high ones alone, or over it, on other images than those of
    the training; for that the threshold makes room. A layer that is not active may be read all the same: its KL cannot
    tell. Both numbers are per layer, not per latent: so are free bits, and it is in nats per image that layers of
    different sizes share the rate.

    Args:
      kls: [N, L], raw KLs in nats, as from `layer_kls`; single draws near the floor vary by as much as their mean, so
        give hundreds of images.
      free_bits: nats a layer, those of the training; 0 where it had none.
      threshold: nats a layer, from 0.

    Returns:
      [L], bool, bottom first.

    Raises:
      ValueError: if the shape is another, or a number negative.
    """
    kls = np.asarray(kls, np.float64)
    if kls.ndim != 2 or 0 in kls.shape:
        raise ValueError(f"kls has shape {kls.shape}; expected [N, L] with at least one image")
    for name, value in (("free_bits", free_bits), ("threshold", threshold)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; expected a number of nats from 0")
    return kls.mean(axis=0) > free_bits + threshold


def _num_layers(trained: Trained) -> int:
    if not isinstance(trained.model, HVAE):
        raise ValueError(f"model is a {type(trained.model).__name__}, which has no layers of latents; expected an HVAE")
    return len(trained.model.stages)


def _at_least(images: np.ndarray, num: int) -> int:
    """How many images there are."""
    if len(images) < num:
        raise ValueError(f"images holds {len(images)} examples; expected at least {num}")
    return len(images)


def _chosen_dimensions(latent: Latent, dimensions: int | Sequence[int]) -> tuple[int, ...]:
    """The most active dimensions of a layer, or those given, once they are known to exist."""
    size = latent.mean.shape[-1]
    if not isinstance(dimensions, int):
        wrong = [dimension for dimension in dimensions if not 0 <= dimension < size]
        if wrong or not len(dimensions):
            raise ValueError(f"dimensions is {tuple(dimensions)}; expected numbers from 0 to {size - 1}")
        return tuple(dimensions)
    if dimensions < 1:
        raise ValueError(f"dimensions is {dimensions}; expected 1 or more")
    activity = np.var(latent.mean, axis=0) / np.exp(latent.log_var).mean(axis=0)
    order = np.argsort(-activity.reshape(-1, size).mean(axis=0), kind="stable")
    return tuple(order[:dimensions].tolist())


def _decode(trained: Trained, z, keys: jax.Array, from_prior: np.ndarray, temperature: float) -> np.ndarray:
    """The likelihood's mean for these latents, drawn anew from the prior where `from_prior` [L] is True."""
    outputs = _decode_function(trained.model)(trained.params["model"], z, keys, temperature, from_prior)
    return np.asarray(trained.likelihood.mean(trained.params["likelihood"], trained.likelihood_state, outputs))


@functools.lru_cache(maxsize=8)
def _infer_function(model: HVAE) -> Callable[..., tuple[Latent, ...]]:
    infer: Any = functools.partial(model.apply, method="inference_path")
    return jax.jit(lambda params, x, keys: infer({"params": params}, x, keys))


@functools.lru_cache(maxsize=8)
def _decode_function(model: HVAE) -> Callable[..., jax.Array]:
    """Which layers are drawn is an argument, not part of the program: one compilation for all of them."""
    generate: Any = functools.partial(model.apply, method="generative_path")
    return jax.jit(lambda params, z, *args: generate({"params": params}, z, *args)[0])


@functools.lru_cache(maxsize=8)
def _kl_function(model: HVAE) -> Callable[..., jax.Array]:
    forward: Any = model.apply
    return jax.jit(lambda params, x, keys: forward({"params": params}, x, keys).kl)
