"""SVG-LP, the video model of the paper's BAIR experiments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calibrax.models.interface import Forward, check_positive, check_temperature
from calibrax.models.svg.backbone import BACKBONES, SIZE, Decoder, Encoder
from calibrax.models.svg.dynamics import Dynamics, States
from calibrax.models.svg.steps import over_steps, step_noise


class Memory(NamedTuple):
    """What a prediction continues from."""

    states: States
    code: jax.Array  # [B, g_dim], of the newest frame
    skips: tuple[jax.Array, ...]  # of one of the given frames, for all that follow


class SVG(nn.Module):
    """Stochastic video generation with a learned prior: a VAE of each next frame, given the frames before it.

    With h_t = encoder(x_t), for t = 1, ..., T - 1: z_t ~ q(z_t | h_1, ..., h_t), p(z_t | h_0, ..., h_{t-1}) and
    x_t ~ p(x_t | decoder(predictor(h_{t-1}, z_t, ...), skips)), where posterior, prior and predictor are LSTMs. The
    skips are the encoder's feature maps: those of frame t - 1 while t < n_past, and those of the last such frame from
    then on; with n_past 2 they are always frame 0's. Training is teacher-forced and scores every step, including those
    of the conditioning frames. For a three-channel mean, the model has 22,831,747 parameters with the VGG and
    12,689,539 with the DCGAN.

    The original minimises, summed over the steps, mean squared error + β·KL. Times D / β this is SSE / β' + KL with
    β' = βD and D the number of values of a frame: -ELBO of a Gaussian decoder with σ² = βD/2, up to its constant.
    β = 1e-4 and 64×64×3 mean σ² = 0.614, `cx.gaussian(objectives.beta_to_sigma(1e-4 * 12288))`; unit variance would be
    β = 1.63e-4.

    Every call of encoder or decoder applies batch norm over the batch at one time step, as in the original. The
    original encodes the frames 1 to T - 2 twice, with the same result; here each is encoded once, so that its
    statistics enter the running averages once per step, not twice. The averages are the collection `batch_stats`,
    updated by `apply` with `train=True, mutable=["batch_stats"]`. Without `running_average_at_test` nothing reads them
    and they may be left out.

    Attributes:
      image_shape: (64, 64, C) of one frame.
      output_channels: values that the decoder emits per position, `likelihood.output_channels(C)`.
      backbone: "vgg" or "dcgan", the encoder and decoder.
      g_dim: length of a frame's code.
      z_dim: latents of a step.
      rnn_size: length of the LSTM states.
      predictor_layers, posterior_layers, prior_layers: number of LSTM cells of each.
      features: channels of the encoder's first layer.
      n_past: number of frames to condition on.
      running_average_at_test: normalise with the running averages when not training. The default, False, is the
        original's: the batch's own statistics, with which a result depends on the other examples, and a batch of one
        example is refused, as its codes would all be zero.
      dtype: of the network's computation; None for float32. Parameters, LSTM states, Gaussians, KL and outputs are
        always float32.
      remat: encode and decode one time step after another, and recompute their intermediate values in the backward pass
        instead of keeping them in memory. Otherwise all steps pass encoder and decoder at once, and only the recurrent
        parts run step by step.
      unroll: a Python loop over time, not a scan, so that `nn.intercept_methods` sees its steps; slow to compile.
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
        """The shape of one step's latents, as a tuple of one layer."""
        return ((self.z_dim,),)

    def setup(self):
        self._check_settings()
        options: Any = {"features": self.features, "dtype": self.dtype, "axis_name": self.axis_name}
        self.encoder = Encoder(self.backbone, self.g_dim, **options)
        self.decoder = Decoder(self.backbone, self.output_channels, **options)
        layers = (self.predictor_layers, self.posterior_layers, self.prior_layers)
        self.dynamics = Dynamics(self.g_dim, self.z_dim, self.rnn_size, *layers, dtype=self.dtype)

    def __call__(self, x: jax.Array, key: jax.Array, train: bool = False, n_past: int | None = None) -> Forward:
        """Predict every frame but the first from the true frames before it and a posterior sample.

        Args:
          x: [B, T, 64, 64, C], T at least 2, floats in [0, 1] or uint8.
          key: one key for the batch, or B keys, one per example; the noise of a step depends on key and step alone.
          train: if False, and `running_average_at_test` is set, batch norm uses the running averages; else the batch's
            own statistics.
          n_past: replaces the model's own; with T, every step has the skips of the frame before it.

        Returns:
          Outputs [B, T - 1, 64, 64, output_channels], to be scored against `target(x)`, and KL(q || p) [B], in nats,
          summed over latents and steps.

        Raises:
          ValueError: for a wrong shape, key or n_past.
        """
        self._check_video("x", x, 2)
        n_past = self.n_past if n_past is None else n_past
        check_positive(n_past=n_past)
        running, steps = not train and self.running_average_at_test, x.shape[1] - 1
        num_skips = min(max(n_past - 1, 1), steps)
        codes, skips = self._encode(x.swapaxes(0, 1), num_skips, running)
        _, (predicted, kl) = self._infer(codes, key)
        source = jnp.minimum(jnp.arange(steps), num_skips - 1)  # the frame whose skips the step takes
        return Forward(self._decode_all(predicted, skips, source, running).swapaxes(0, 1), jnp.sum(kl, axis=0))

    @nn.nowrap
    def target(self, x: jax.Array) -> jax.Array:
        """The part of videos x [B, T, H, W, C] that the outputs predict: all frames but the first."""
        return x[:, 1:]

    def predict(
        self,
        x_past: jax.Array,
        key: jax.Array,
        num_frames: int,
        to_image: Callable[[jax.Array], jax.Array],
        temperature: jax.typing.ArrayLike = 1.0,
    ) -> jax.Array:
        """The decoder's outputs for the frames after x_past, each fed back to predict the next.

        The latents come from the posterior for the frames 1 to n_past - 1, and from the prior after them. The skips are
        those of frame n_past - 2, as in training with this n_past. Batch norm works as in `__call__` without `train`.

        Args:
          x_past: [B, n_past, 64, 64, C], floats in [0, 1] or uint8.
          key: one key, or B; another key gives another future.
          num_frames: number of frames to predict.
          to_image: from outputs [B, 64, 64, output_channels] to the images [B, 64, 64, C] in [0, 1] that are fed back.
            The original feeds back the mean, `lambda outputs: likelihood.mean(params, state, outputs)`.
          temperature: factor on the standard deviation of the prior's draws; 0 takes the prior's mean.

        Returns:
          [B, num_frames, 64, 64, output_channels].

        Raises:
          ValueError: for wrong shapes, key, num_frames or temperature.
        """
        self._check_video("x_past", x_past, 1)
        check_positive(num_frames=num_frames)
        check_temperature(temperature)
        noise = step_noise(key, x_past.shape[0], x_past.shape[1] - 1 + num_frames, self.z_dim)
        memory = self.observe(x_past, key)

        def imagine(model, memory, noise):
            return model.imagine(memory, noise * jnp.asarray(temperature, noise.dtype), to_image)

        _, outputs = over_steps(self, imagine, memory, noise[x_past.shape[1] - 1 :])
        return outputs.swapaxes(0, 1)

    def observe(self, x_past: jax.Array, key: jax.Array) -> Memory:
        """What `imagine` needs to know of the given frames; arguments as in `predict`."""
        self._check_video("x_past", x_past, 1)
        batch_size, n_past = x_past.shape[:2]
        codes, skips = self._encode(x_past.swapaxes(0, 1), max(n_past - 1, 1), self.running_average_at_test)
        states = self._infer(codes, key)[0] if n_past > 1 else self.dynamics.initial(batch_size)
        return Memory(states, codes[-1], jax.tree.map(lambda skip: skip[-1], skips))

    def imagine(
        self, memory: Memory, noise: jax.Array, to_image: Callable[[jax.Array], jax.Array]
    ) -> tuple[Memory, jax.Array]:
        """Predict one more frame and feed it back.

        Args:
          memory: from `observe`, or from the previous frame.
          noise: [B, z_dim], standard normal, times a temperature if any.
          to_image: as in `predict`.

        Returns:
          The memory for the next frame, and this frame's outputs [B, 64, 64, output_channels].
        """
        running = self.running_average_at_test
        states, code = self.dynamics.generate(memory.states, memory.code, noise.astype(self._wide))
        outputs = self._decode(code, memory.skips, running)
        image, expected = to_image(outputs), (len(noise), *self.image_shape)
        if image.shape != expected:
            raise ValueError(f"to_image gives shape {image.shape}; expected {expected}")
        return memory._replace(states=states, code=self.encoder(self._unit(image), running)[0]), outputs

    def _infer(self, codes, key):
        """The states after the codes [T, B, g_dim]; the predicted codes [T - 1, B, g_dim] and KLs [T - 1, B]."""
        steps, batch_size = len(codes) - 1, codes.shape[1]

        def infer(model, states, inputs):
            states, code, kl = model.dynamics.infer(states, *inputs)
            return states, (code, kl)

        noise = step_noise(key, batch_size, steps, self.z_dim).astype(self._wide)
        return over_steps(self, infer, self.dynamics.initial(batch_size), (codes[:-1], codes[1:], noise))

    def _encode(self, frames, num_skips, running):
        """Codes [T, B, g_dim] of frames [T, B, ...], and skips [num_skips, B, ...] of the first `num_skips` frames."""
        if not self.remat:
            codes, skips = self.encoder(self._unit(frames), running)
            return codes, jax.tree.map(lambda skip: skip[:num_skips], skips)

        def encode(model, carry, frame):
            return carry, model.encoder(model._unit(frame), running)

        # Two loops, as a loop stacks the outputs of all its steps: skips are large, and only the first ones are used.
        _, (codes, skips) = over_steps(self, encode, (), frames[:num_skips])
        if num_skips < len(frames):
            _, rest = over_steps(self, lambda *args: ((), encode(*args)[1][0]), (), frames[num_skips:])
            codes = jnp.concatenate([codes, rest])
        return codes, skips

    def _decode_all(self, codes, skips, source, running):
        """Outputs [T, B, ...] for codes [T, B, g_dim], where step t has the skips of frame source[t]."""
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
        """The dtype of states, Gaussians and outputs: float64 if that is the computation's, else float32."""
        return np.promote_types(self.dtype or np.float32, np.float32)

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
        names = ("output_channels", "g_dim", "z_dim", "rnn_size", *layers, "features", "n_past")
        check_positive(**{name: getattr(self, name) for name in names})
