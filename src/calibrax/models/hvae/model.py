"""The hierarchical VAE of the paper's CelebA and CIFAR-10 experiments."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.hvae.latent import LOG_VAR, Gaussian, Latent, draw, sampled_kl
from calibrax.models.hvae.noise import POSTERIOR, PRIOR, layer_noise
from calibrax.models.hvae.spec import CIFAR_STAGES, StageSpec, feature_maps, latent_shape
from calibrax.models.hvae.stage import Stage
from calibrax.models.hvae.weight_norm import WeightNormConv
from calibrax.models.interface import Forward, check_images, check_positive, check_temperature, is_single, split_keys


class HVAE(nn.Module):
    """A VAE with a chain of latent layers and no top-down inference, the baseline of Maaløe et al. in the paper.

    Inference runs upwards from the image in [-1, 1]: h_l = blocks(z_{l-1}, aux = h_{l-1}) and z_l ~ q(· | h_l).
    Generation runs downwards: z_L ~ N(0, I), d_l = blocks(z_l, aux = the blocks of l + 1) and z_l ~ p(· | d_{l+1}); a
    1×1 convolution of d_1 gives the likelihood's channels. Nothing passes from d to q. All layers are weight-normalised
    and take gain and bias from the batch given to `init`, which must therefore be a real one. The original initialised
    with dropout; pass `train=True` to `init` to do the same.

    With `log_var="softplus"`, the default of the original and so of the paper, every conditional log variance is
    softplus(raw) >= 0: no layer's standard deviation, posterior or prior, can fall below 1.

    Attributes:
      image_shape: (H, W, C) of one image, H and W multiples of the product of the strides.
      output_channels: values that the decoder emits per position, `likelihood.output_channels(C)`.
      stages: bottom first. `CIFAR_STAGES`, 54.4 million parameters at 32×32, or `DENSE_STAGES` for MNIST.
      skip: whether the deterministic connections h_{l-1} and d_{l+1} exist beside the latents. Without them
        z_L -> ... -> z_1 -> x is a Markov chain.
      log_var: "softplus", "tanh" or "none", the function from a head's output to a log variance.
      dropout: rate in the inference blocks during training.
      num_blocks: blocks of each stage in each direction.
      dtype: of the network's computation; None for float32. Parameters, Gaussians, KL and outputs are always float32.
      remat: recompute the blocks' intermediate values in the backward pass instead of keeping them in memory.
      axis_name: the mapped axis over which the batch of `init` is spread, if any; `apply` does not need it.

    Example:
      >>> model = HVAE((32, 32, 3), likelihood.output_channels(3))
      >>> params = model.init(key, images, key, train=True)["params"]
      >>> outputs, kl = model.apply({"params": params}, images, key, train=True)

    References:
      Appendix B; Maaløe et al. 2019, "BIVA"; wiring and sizes of the plain VAE in vlievin/biva-pytorch (ba37aca).
    """

    image_shape: tuple[int, int, int]
    output_channels: int
    stages: Sequence[StageSpec] = CIFAR_STAGES
    skip: bool = True
    log_var: str = "softplus"
    dropout: float = 0.2
    num_blocks: int = 3
    dtype: Any = None
    remat: bool = False
    axis_name: str | None = None

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of one image's latents, bottom first: (H, W, N) for a map, (N,) for a vector."""
        maps = feature_maps(self.image_shape, self.stages)
        return tuple(latent_shape(spec, features) for spec, features in zip(self.stages, maps, strict=True))

    def setup(self):
        features = feature_maps(self.image_shape, self.stages)
        check_positive(output_channels=self.output_channels, num_blocks=self.num_blocks)
        if self.log_var not in LOG_VAR:
            raise ValueError(f"log_var is {self.log_var!r}; expected one of {', '.join(LOG_VAR)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; expected a rate in [0, 1)")
        shared = ("num_blocks", "log_var", "dropout", "remat", "dtype", "axis_name")
        options: Any = {name: getattr(self, name) for name in shared}
        self.stage = [
            Stage(spec, layer, features[layer], features[layer - 1] if layer else None, **options)
            for layer, spec in enumerate(self.stages)
        ]
        self.head = WeightNormConv(self.output_channels, 1, dtype=self.dtype, axis_name=self.axis_name)

    def __call__(self, x: jax.Array, key: jax.Array, train: bool = False) -> Forward:
        """Infer the latents, generate from them, and compare posteriors with priors.

        Args:
          x: [B, H, W, C], floats in [0, 1] or uint8.
          key: one key for the batch, or B keys, one per example, for noise and dropout.
          train: whether dropout is active.

        Returns:
          The outputs, and the KLs [B, L], bottom layer first: log q(z_l) - log p(z_l) of the one draw, in nats.
        """
        latents = self.inference_path(x, key, train)
        outputs, priors = self.generative_path([latent.z for latent in latents])
        return Forward(outputs, jnp.stack([sampled_kl(q, p) for q, p in zip(latents, priors, strict=True)], axis=1))

    def inference_path(self, x: jax.Array, key: jax.Array, train: bool = False) -> tuple[Latent, ...]:
        """A draw of every layer's latents from the posterior, with its Gaussian, bottom first."""
        below, skip, latents = self._scaled(x), None, []
        keys = split_keys(key, x.shape[0])
        noise = layer_noise(keys, POSTERIOR, self.latent_shapes)
        for layer, stage in enumerate(self.stage):
            h, posterior = stage.infer(below, skip, keys if train else None)
            latents.append(draw(posterior, noise[layer]))
            below, skip = latents[-1].z, h if self.skip else None
        return tuple(latents)

    def generative_path(
        self,
        z: Sequence[jax.Array | None],
        key: jax.Array | None = None,
        temperature: jax.typing.ArrayLike = 1.0,
        from_prior: jax.typing.ArrayLike | None = None,
    ) -> tuple[jax.Array, tuple[Gaussian, ...]]:
        """The decoder's outputs [B, H, W, output_channels], and the prior of every layer given those above it.

        For a latent traversal, take the latents of `inference_path`, move one layer's z, set the layers below it to
        None, and the temperature to 0.

        Args:
          z: the latents of each layer, bottom first; None for a layer to be drawn from the prior.
          key: for those draws: B keys; one key is enough if any layer is given.
          temperature: factor on the prior's standard deviation in those draws; 0 takes the prior's mean.
          from_prior: [L] bool, True for a layer to be drawn from the prior although `z` gives it. Unlike None in `z` it
            may be traced, so that one compiled program serves every choice.
        """
        check_temperature(temperature)
        if from_prior is not None and jnp.shape(from_prior) != (len(self.stages),):
            raise ValueError(f"from_prior has shape {jnp.shape(from_prior)}; expected {(len(self.stages),)}")
        if from_prior is not None and key is None:
            raise ValueError("key is None; expected one, as from_prior is given")
        batch_size, keys = self._batch_of(z, key)
        noise: Any = None if keys is None else layer_noise(keys, PRIOR, self.latent_shapes)
        above, skips, priors = None, None, []
        for layer, stage in reversed(list(enumerate(self.stage))):
            priors.append(stage.prior(above, batch_size))
            latent: Any = z[layer]
            if latent is None or from_prior is not None:
                drawn = draw(priors[-1], noise[layer] * jnp.asarray(temperature, jnp.float32)).z
                latent = drawn if latent is None else jnp.where(jnp.asarray(from_prior)[layer], drawn, latent)
            blocks = stage.generate(latent, skips)
            above, skips = blocks[-1], blocks if self.skip else None
        return self.head(nn.elu(blocks[-1])).astype(jnp.float32), tuple(priors[::-1])

    def generate(self, key: jax.Array, num: int, temperature: jax.typing.ArrayLike = 1.0) -> jax.Array:
        """The decoder's outputs for `num` draws from the prior.

        Args:
          key: one key, or `num`.
          num: the number of draws.
          temperature: factor on the standard deviation of every layer's draw; 1 samples the model.
        """
        return self.generative_path(len(self.stages) * [None], split_keys(key, num), temperature)[0]

    def _scaled(self, x: jax.Array) -> jax.Array:
        check_images(x, self.image_shape)
        unit = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x.astype(jnp.float32)
        return (2 * unit - 1).astype(self.dtype or jnp.float32)

    def _batch_of(self, z: Sequence[jax.Array | None], key: jax.Array | None) -> tuple[int, jax.Array | None]:
        """The batch size, and one key per example if there is a key."""
        if len(z) != len(self.stages):
            raise ValueError(f"z has {len(z)} layers; expected {len(self.stages)}")
        given = [latent.shape[0] for latent in z if latent is not None]
        if len(given) < len(z) and key is None:
            raise ValueError("key is None; expected one, as some layers of z are None, to be drawn from the prior")
        if not given and (key is None or is_single(key)):
            raise ValueError("key is a single key; expected one for each example, as no layer of z is given")
        batch_size = given[0] if given or key is None else key.shape[0]
        for layer, (latent, shape) in enumerate(zip(z, self.latent_shapes, strict=True)):
            expected = (batch_size, *shape)
            if latent is not None and latent.shape != expected:
                raise ValueError(f"z[{layer}] has shape {latent.shape}; expected {expected}")
        return batch_size, None if key is None else split_keys(key, batch_size)
