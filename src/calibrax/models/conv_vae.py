"""The small convolutional VAE of the SVHN experiments (appendix B)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.interface import Forward, check_images, split_keys
from calibrax.models.layers import Conv, ConvTranspose, Dense, bounded
from calibrax.objectives import gaussian_kl


class Encoder(nn.Module):
    """From images to the mean and log variance of the posterior."""

    features: int
    latent_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        n = self.features
        h = nn.relu(Conv(n, 3, padding=1, dtype=self.dtype, name="conv_1")(x))
        h = nn.relu(Conv(2 * n, 4, stride=2, padding=1, dtype=self.dtype, name="conv_2")(h))
        h = nn.relu(Conv(4 * n, 5, stride=2, padding=2, dtype=self.dtype, name="conv_3")(h))
        h = h.reshape(h.shape[0], -1)
        mean = Dense(self.latent_dim, dtype=self.dtype, name="mean")(h).astype(jnp.float32)
        log_var = Dense(self.latent_dim, dtype=self.dtype, name="log_var")(h).astype(jnp.float32)
        return mean, bounded(log_var)


class Decoder(nn.Module):
    """From latents to the outputs that the likelihood reads."""

    image_size: tuple[int, int]
    output_channels: int
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, z):
        height, width = self.image_size
        n, h, w = self.features, -(-height // 4), -(-width // 4)
        x = Dense(h * w * 4 * n, dtype=self.dtype, name="linear")(z).reshape(-1, h, w, 4 * n)
        x = nn.relu(ConvTranspose(2 * n, 6, stride=2, padding=2, dtype=self.dtype, name="deconv_1")(x))
        x = nn.relu(ConvTranspose(n, 6, stride=2, padding=2, dtype=self.dtype, name="deconv_2")(x))
        x = ConvTranspose(self.output_channels, 5, padding=2, dtype=self.dtype, name="deconv_3")(x)
        return x[:, :height, :width].astype(jnp.float32)


class ConvVAE(nn.Module):
    """The authors' SVHN network, 992,427 parameters for 28×28×3 images and a three-channel mean.

    The encoder has convolutions to 32 (3×3), 64 (4×4, stride 2) and 128 channels (5×5, stride 2), a ReLU after each,
    and two linear heads. The decoder has a linear layer without activation, transposed convolutions to 64 and 32
    channels (6×6, stride 2) with ReLU, and one to the likelihood's channels (5×5). Initialisation is PyTorch's default,
    as the authors had it. The prior is a unit Gaussian and the posterior a diagonal one, whose log variance is bounded
    softly at ±20 to keep the KL finite.

    Attributes:
      image_shape: (H, W, C) of one image, H and W at least 4.
      output_channels: values that the decoder emits per position, `likelihood.output_channels(C)`.
      latent_dim: latent dimensions.
      features: channels of the first convolution; the later ones have twice and four times as many.
      dtype: of the network's computation; None for float32. Outputs and KL are always float32.

    Example:
      >>> likelihood = cx.optimal_sigma()
      >>> model = ConvVAE(image_shape=(28, 28, 3), output_channels=likelihood.output_channels(3))
      >>> variables = model.init(key, images, key)
      >>> outputs, kl = model.apply(variables, images, key)

    References:
      Appendix B; sizes from the authors' public PyTorch code (orybkin/sigma-vae-pytorch).
    """

    image_shape: tuple[int, int, int]
    output_channels: int
    latent_dim: int = 20
    features: int = 32
    dtype: Any = None

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one image's latents, as a tuple of one layer."""
        return ((self.latent_dim,),)

    def setup(self):
        if len(self.image_shape) != 3 or min(self.image_shape[:2]) < 4:
            raise ValueError(f"image_shape is {self.image_shape}; expected (height, width, channels), 4 pixels or more")
        self.encoder = Encoder(self.features, self.latent_dim, self.dtype)
        self.decoder = Decoder(self.image_shape[:2], self.output_channels, self.features, self.dtype)

    def __call__(self, x: jax.Array, key: jax.Array, train: bool = False) -> Forward:
        """Encode, draw one posterior sample, decode.

        Args:
          x: [B, H, W, C], floats in [0, 1] or uint8.
          key: one key for the batch, or B keys, one per example.
          train: has no effect, as the network has no dropout.
        """
        del train
        mean, log_var = self.encode(x)
        keys = split_keys(key, mean.shape[0])
        noise = jax.vmap(lambda example_key: jax.random.normal(example_key, mean.shape[1:]))(keys)
        z = mean + jnp.exp(0.5 * log_var) * noise
        return Forward(self.decode(z), gaussian_kl(mean, log_var))

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of q(z | x), each [B, latent_dim]."""
        check_images(x, self.image_shape)
        dtype = self.dtype or jnp.float32
        return self.encoder(x.astype(dtype) / 255 if x.dtype == jnp.uint8 else x.astype(dtype))

    def decode(self, z: jax.Array) -> jax.Array:
        """The decoder's outputs [B, H, W, output_channels] for latents [B, latent_dim]."""
        return self.decoder(z)

    def generate(self, key: jax.Array, num: int, temperature: jax.typing.ArrayLike = 1.0) -> jax.Array:
        """The decoder's outputs for `num` draws from the prior, its standard deviation times the temperature."""
        noise = jax.random.normal(key, (num, self.latent_dim))
        return self.decode(noise * jnp.asarray(temperature, jnp.float32))
