"""SVG-LP, the video model of the paper's BAIR experiments."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.conv_vae import Forward
from calibrax.models.svg.dcgan import DCGANDecoder, DCGANEncoder
from calibrax.models.svg.dynamics import Dynamics, States
from calibrax.models.svg.precision import at_least_float32
from calibrax.models.svg.steps import over_steps, step_noise
from calibrax.models.svg.vgg import VGGDecoder, VGGEncoder

BACKBONES: dict[str, Any] = {"vgg": (VGGEncoder, VGGDecoder), "dcgan": (DCGANEncoder, DCGANDecoder)}
SIZE = 64  # of frames: what four halvings bring to the 4×4 of the encoders' last convolution


class Memory(NamedTuple):
    """What prediction goes on from."""

    states: States
    code: jax.Array  # [B, g_dim], of the newest frame
    skips: tuple[jax.Array, ...]  # of a given frame, for all that follow


class SVG(nn.Module):
    """Stochastic video generation with a learned prior: a VAE for every next frame, given those before.

    With h_t = encoder(x_t), for t = 1, ..., T - 1: z_t ~ q(z_t | h_1, ..., h_t), p(z_t | h_0, ..., h_{t-1}) and
    x_t ~ p(x_t | decoder(predictor(h_{t-1}, z_t, ...), skips)), where posterior, prior and predictor are LSTMs. The
    skips, the encoder's feature maps, are those of frame t - 1 while t < n_past and stay those of the last such frame
    from then on; with n_past 2 they are frame 0's always. Training is teacher-forced and scores every step, also those
    of the conditioning frames. 22,831,747 parameters with the VGG, 12,689,539 with the DCGAN, for a three-channel mean.

    The original minimises, summed over the steps, mean squared error + β·KL. Times D / β this is SSE / β' + KL with
    β' = βD, D the values of a frame: -ELBO of a Gaussian decoder with σ² = βD/2, up to its constant. β = 1e-4 and
    64×64×3 mean σ² = 0.614, `cx.gaussian(objectives.beta_to_sigma(1e-4 * 12288))`; unit variance would be β = 1.63e-4.

    Batch norm: every call of encoder or decoder normalises over the batch at one time step, as in the original. That
    encodes the frames 1 to T - 2 twice, with the same result; here each is encoded once, so that their statistics enter
    the running averages once a step, not twice. The averages are the collection `batch_stats`, updated by `apply` with
    `train=True, mutable=["batch_stats"]`; without `running_average_at_test` nothing reads it and it may be left out.

    Attributes:
      image_shape: (64, 64, C) of one frame.
      output_channels: what the decoder emits for each position: `likelihood.output_channels(C)`.
      backbone: "vgg" or "dcgan", the encoder and decoder.
      g_dim: length of a frame's code.
      z_dim: latents of a step.
      rnn_size: of the LSTM states.
      predictor_layers, posterior_layers, prior_layers: LSTM cells of each.
      features: channels of the encoder's first layer.
      n_past: frames to condition on.
      running_average_at_test: normalise with the running averages when not training. The original, and so the default,
        keeps to the batch's own statistics: a result then depends on the examples beside it, and a batch of one example
        is refused, as its codes would all be zero.
      dtype: of the network's computation, None for float32. Parameters, LSTM states, Gaussians, KL and outputs are
        float32.
      remat: encode and decode one time step after another, and recompute their insides in the backward pass instead of
        keeping them in memory. Without it all steps pass encoder and decoder at once, and only the recurrent parts go
        step by step.
      unroll: a Python loop over time in the place of a scan, for `nn.intercept_methods` to see into; slow to compile.
      axis_name: the mapped axis over which the batch is spread, if any, across which batch norm averages; `init` does
        not need it. `model.clone(axis_name="batch")` is the same model under `pmap`.

    Example:
      >>> model = SVG((64, 64, 3), likelihood.output_channels(3))
      >>> params = model.init(key, videos, key)["params"]
      >>> outputs, kl = model.apply({"params": params}, videos, key, train=True)
      >>> nll, stats = likelihood.nll({}, state, outputs, model.target(videos))

    References:
      Denton and Fergus 2018; edenton/svg (3f19f0b), `train_svg_lp.py`, with the settings of its README for BAIR.
    """

    image_shape: tuple[int, int, int]
    output_channels: int
    backbone: str = "vgg"
    g_dim: int = 128
    z_dim: int = 64
    rnn_size: int = 256
    predictor_layers: int = 2
    posterior_layers: int = 1
    prior_layers: int = 1
    features: int = 64
    n_past: int = 2
    running_average_at_test: bool = False
    dtype: Any = None
    remat: bool = False
    unroll: bool = False
    axis_name: str | None = None

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the latents of one step, here of one layer."""
        return ((self.z_dim,),)

    def setup(self):
        self._check_settings()
        encoder, decoder = BACKBONES[self.backbone]
        sizes: Any = {"features": self.features, "dtype": self.dtype, "axis_name": self.axis_name}
        self.encoder = encoder(self.g_dim, **sizes)
        self.decoder = decoder(self.output_channels, **sizes)
        layers = (self.predictor_layers, self.posterior_layers, self.prior_layers)
        self.dynamics = Dynamics(self.g_dim, self.z_dim, self.rnn_size, *layers, dtype=self.dtype)

    def __call__(self, x: jax.Array, key: jax.Array, train: bool = False, n_past: int | None = None) -> Forward:
        """Every frame but the first, predicted from the true frames before it and a posterior sample.

        Args:
          x: [B, T, 64, 64, C], T at least 2, floats in [0, 1] or uint8.
          key: one key for the batch, or B keys, one an example; the noise of a step depends on key and step alone.
          train: what the batch norm is to do; without effect on the rest.
          n_past: in the place of the model's own; T for the skips of the frame before at every step.

        Returns:
          Outputs [B, T - 1, 64, 64, output_channels], to be scored against `target(x)`; KL(q || p) [B], nats, summed
          over latents and steps.

        Raises:
          ValueError: for a wrong shape, key or n_past.
        """
        self._check_video("x", x, 2)
        n_past = self.n_past if n_past is None else n_past
        _check_positive("n_past", n_past)
        running, steps = not train and self.running_average_at_test, x.shape[1] - 1
        num_skips = min(max(n_past - 1, 1), steps)
        codes, skips = self._encode(x.swapaxes(0, 1), num_skips, running)

        def infer(model, states, inputs):
            states, code, kl = model.dynamics.infer(states, *inputs)
            return states, (code, kl)

        noise = step_noise(key, x.shape[0], steps, self.z_dim).astype(self._wide)
        inputs = (codes[:-1], codes[1:], noise)
        _, (predicted, kl) = over_steps(self, infer, self.dynamics.initial(x.shape[0]), inputs)
        source = jnp.minimum(jnp.arange(steps), num_skips - 1)  # the frame whose skips the step takes
        return Forward(self._decode_all(predicted, skips, source, running).swapaxes(0, 1), jnp.sum(kl, axis=0))

    @nn.nowrap
    def target(self, x: jax.Array) -> jax.Array:
        """What the outputs for videos x [B, T, H, W, C] are about: all frames but the first."""
        return x[:, 1:]

    def predict(
        self,
        x_past: jax.Array,
        key: jax.Array,
        num_frames: int,
        to_image: Callable[[jax.Array], jax.Array],
        temperature: jax.typing.ArrayLike = 1.0,
    ) -> jax.Array:
        """The decoder's outputs for the frames after x_past, each fed back for the next.

        The latents come from the posterior for the frames 1 to n_past - 1, from the prior thereafter; the skips are
        those of frame n_past - 2, as in training with this n_past. Batch norm is as in `__call__` without `train`.

        Args:
          x_past: [B, n_past, 64, 64, C], floats in [0, 1] or uint8.
          key: one key, or B; another key is another future.
          num_frames: how many to predict.
          to_image: what is fed back for outputs [B, 64, 64, output_channels]: images [B, 64, 64, C] in [0, 1], in the
            original the mean, `lambda outputs: likelihood.mean(params, state, outputs)`.
          temperature: what multiplies the standard deviation of the prior's draws; 0 takes its mean.

        Returns:
          [B, num_frames, 64, 64, output_channels].

        Raises:
          ValueError: for wrong shapes, key, num_frames or temperature.
        """
        self._check_video("x_past", x_past, 1)
        _check_positive("num_frames", num_frames)
        if isinstance(temperature, int | float) and not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; expected a number from 0")
        noise = step_noise(key, x_past.shape[0], x_past.shape[1] - 1 + num_frames, self.z_dim)
        memory = self.observe(x_past, key)

        def imagine(model, memory, noise):
            return model.imagine(memory, noise * jnp.asarray(temperature, noise.dtype), to_image)

        _, outputs = over_steps(self, imagine, memory, noise[x_past.shape[1] - 1 :])
        return outputs.swapaxes(0, 1)

    def observe(self, x_past: jax.Array, key: jax.Array) -> Memory:
        """What is kept of the given frames: arguments as of `predict`; `imagine` goes on from there."""
        self._check_video("x_past", x_past, 1)
        batch_size, n_past = x_past.shape[:2]
        running, num_skips = self.running_average_at_test, max(n_past - 1, 1)
        codes, skips = self._encode(x_past.swapaxes(0, 1), num_skips, running)
        noise = step_noise(key, batch_size, n_past - 1, self.z_dim).astype(self._wide)
        states = self.dynamics.initial(batch_size)

        def observe(model, states, inputs):
            return model.dynamics.infer(states, *inputs)[0], None

        if n_past > 1:
            states, _ = over_steps(self, observe, states, (codes[:-1], codes[1:], noise))
        return Memory(states, codes[-1], jax.tree.map(lambda skip: skip[-1], skips))

    def imagine(
        self, memory: Memory, noise: jax.Array, to_image: Callable[[jax.Array], jax.Array]
    ) -> tuple[Memory, jax.Array]:
        """One frame more, and fed back.

        Args:
          memory: of `observe`, or of the frame before.
          noise: [B, z_dim], standard normal, or as wide as the prior is to be drawn.
          to_image: as of `predict`.

        Returns:
          What is kept, and the outputs [B, 64, 64, output_channels].
        """
        running = self.running_average_at_test
        states, code = self.dynamics.generate(memory.states, memory.code, noise.astype(self._wide))
        outputs = self._decode(code, memory.skips, running)
        image, expected = to_image(outputs), (len(noise), *self.image_shape)
        if image.shape != expected:
            raise ValueError(f"to_image gives shape {image.shape}; expected {expected}")
        return memory._replace(states=states, code=self.encoder(self._unit(image), running)[0]), outputs

    def _encode(self, frames, num_skips, running):
        """Codes [T, B, g_dim] of frames [T, B, ...], and the skips [num_skips, B, ...] of the first of them."""
        if not self.remat:
            codes, skips = self.encoder(self._unit(frames), running)
            return codes, jax.tree.map(lambda skip: skip[:num_skips], skips)

        def with_skips(model, carry, frame):
            return carry, model.encoder(model._unit(frame), running)

        def without(model, carry, frame):
            return carry, model.encoder(model._unit(frame), running)[0]

        _, (codes, skips) = over_steps(self, with_skips, (), frames[:num_skips])
        if num_skips < len(frames):
            _, rest = over_steps(self, without, (), frames[num_skips:])
            codes = jnp.concatenate([codes, rest])
        return codes, skips

    def _decode_all(self, codes, skips, source, running):
        """Outputs [T, B, ...] for codes [T, B, g_dim], with the skips of frame source[t] at step t."""
        if not self.remat:
            return self._decode(codes, jax.tree.map(lambda skip: skip[source], skips), running)

        def decode(model, carry, inputs):
            code, frame = inputs
            return carry, model._decode(code, jax.tree.map(lambda skip: skip[frame], skips), running)

        return over_steps(self, decode, (), (codes, source))[1]

    def _decode(self, code, skips, running):
        return self.decoder(code, skips, running).astype(self._wide)

    @property
    def _wide(self) -> Any:
        """Of states, Gaussians and outputs: float32, or float64 where that is the computation's."""
        return at_least_float32(self.dtype)

    def _unit(self, frame: jax.Array) -> jax.Array:
        unit = frame.astype(self._wide) / 255 if frame.dtype == jnp.uint8 else frame
        return unit.astype(self.dtype or jnp.float32)

    def _check_video(self, name: str, x: jax.Array, min_frames: int) -> None:
        if x.ndim != 5 or x.shape[2:] != tuple(self.image_shape) or x.shape[1] < min_frames:
            expected = f"(B, T, {', '.join(map(str, self.image_shape))}) with T {min_frames} or more"
            raise ValueError(f"{name} has shape {x.shape}; expected {expected}")

    def _check_settings(self) -> None:
        if len(self.image_shape) != 3 or tuple(self.image_shape[:2]) != (SIZE, SIZE):
            raise ValueError(f"image_shape is {tuple(self.image_shape)}; expected ({SIZE}, {SIZE}, channels)")
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone is {self.backbone!r}; expected one of {', '.join(BACKBONES)}")
        layers = ("predictor_layers", "posterior_layers", "prior_layers")
        for name in ("output_channels", "g_dim", "z_dim", "rnn_size", *layers, "features", "n_past"):
            _check_positive(name, getattr(self, name))


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected a positive whole number")
