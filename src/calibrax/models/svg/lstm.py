"""SVG's recurrent parts: a stack of LSTM cells, the predictor and the two Gaussians over latents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.likelihoods import soft_clip
from calibrax.models.conv_vae import LOG_VAR_BOUND
from calibrax.models.layers import uniform_fan_in
from calibrax.models.svg.layers import Dense


class LSTMState(NamedTuple):
    """What an LSTM cell hands to its next step."""

    h: jax.Array  # [B, size], the output, float32 at least
    c: jax.Array  # [B, size], the cell, the same


class LSTMCell(nn.Module):
    """PyTorch's LSTM cell with its parameters: two biases, gates in the order i, f, g, o.

    (i, f, g, o) = x·W_ih + b_ih + h·W_hh + b_hh; c' = σ(f)·c + σ(i)·tanh(g); h' = σ(o)·tanh(c'). All parameters begin
    uniform in ±1/sqrt(size). Products are computed in `dtype`, the rest in float32 at least.

    Attributes:
      size: of the state.
      dtype: of the products; None for that of the input.
    """

    size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, state: LSTMState, x: jax.Array) -> LSTMState:
        """The next state, for an input [B, in]."""
        init, gates = uniform_fan_in(self.size), 4 * self.size
        dtype, wide = self.dtype or x.dtype, state.c.dtype
        total = jnp.zeros((1, gates), wide)
        for name, value in (("ih", x), ("hh", state.h)):
            kernel = self.param(f"kernel_{name}", init, (value.shape[-1], gates))
            bias = self.param(f"bias_{name}", init, (gates,))
            total = total + ((value.astype(dtype) @ kernel.astype(dtype)).astype(wide) + bias.astype(wide)[None])
        i, f, g, o = jnp.split(total, 4, axis=-1)
        c = nn.sigmoid(f) * state.c + nn.sigmoid(i) * jnp.tanh(g)
        return LSTMState(nn.sigmoid(o) * jnp.tanh(c), c)


class LSTM(nn.Module):
    """A linear layer and a stack of cells.

    Attributes:
      size: of every state.
      num_layers: cells.
      dtype: of the products.
    """

    size: int
    num_layers: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, states: Sequence[LSTMState], x: jax.Array) -> tuple[tuple[LSTMState, ...], jax.Array]:
        """The cells' next states and the last one's output [B, size], for an input [B, in]."""
        h, new = Dense(self.size, self.dtype, name="embed")(x), []
        for layer in range(self.num_layers):
            new.append(LSTMCell(self.size, self.dtype, name=f"cell_{layer}")(states[layer], h))
            h = new[-1].h
        return tuple(new), h


class Predictor(nn.Module):
    """The code of the next frame, in ±1, from this frame's and the latents; 1,134,976 parameters by default.

    Attributes:
      code_dim: length of the code.
      size, num_layers, dtype: as in `LSTM`.
    """

    code_dim: int = 128
    size: int = 256
    num_layers: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(
        self, states: Sequence[LSTMState], code: jax.Array, z: jax.Array
    ) -> tuple[tuple[LSTMState, ...], jax.Array]:
        """The next states, and [B, code_dim]."""
        inputs = jnp.concatenate([code.astype(z.dtype), z], axis=-1)
        states, h = LSTM(self.size, self.num_layers, self.dtype, name="lstm")(states, inputs)
        return states, jnp.tanh(Dense(self.code_dim, self.dtype, name="code")(h))


class GaussianLSTM(nn.Module):
    """A diagonal Gaussian over one step's latents, from the codes so far; 592,256 parameters by default.

    Attributes:
      z_dim: latents.
      size, num_layers, dtype: as in `LSTM`.
    """

    z_dim: int = 64
    size: int = 256
    num_layers: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(
        self, states: Sequence[LSTMState], code: jax.Array
    ) -> tuple[tuple[LSTMState, ...], tuple[jax.Array, jax.Array]]:
        """The next states, and mean and log variance, [B, z_dim] each, float32 at least; the latter softly in ±20."""
        states, h = LSTM(self.size, self.num_layers, self.dtype, name="lstm")(states, code)
        mean, log_var = (
            Dense(self.z_dim, self.dtype, name=name)(h).astype(states[-1].c.dtype) for name in ("mean", "log_var")
        )
        return states, (mean, soft_clip(log_var, -LOG_VAR_BOUND, LOG_VAR_BOUND))
