"""SVG's recurrent parts: a stack of LSTM cells, and on it the predictor and the Gaussians over latents."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.layers import bounded, uniform_fan_in
from calibrax.models.svg.layers import Dense


class LSTMState(NamedTuple):
    """The state that an LSTM cell hands to its next step."""

    h: jax.Array  # [B, size], the output, float32 or wider
    c: jax.Array  # [B, size], the cell, of the same dtype


CellStates = tuple[LSTMState, ...]  # of a stack of cells


class LSTMCell(nn.Module):
    """PyTorch's LSTM cell with its parameters: two biases, gates in the order i, f, g, o.

    (i, f, g, o) = x·W_ih + b_ih + h·W_hh + b_hh; c' = σ(f)·c + σ(i)·tanh(g); h' = σ(o)·tanh(c'). All parameters start
    uniform in ±1/sqrt(size). `flax.linen.LSTMCell` will not do: it has a single bias and another initialisation, and
    computes its gates in `dtype` too. Here only the products are in `dtype`, the rest in float32 or wider.
    """

    size: int  # length of the state
    dtype: Any = None  # of the products; None for that of the input

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
    """A linear layer and a stack of cells, all with states of length `size`."""

    size: int
    num_layers: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, states: CellStates, x: jax.Array) -> tuple[CellStates, jax.Array]:
        """The next states of the cells and the output [B, size] of the last one, for an input [B, in]."""
        h, new = Dense(self.size, self.dtype, name="embed")(x), []
        for layer in range(self.num_layers):
            new.append(LSTMCell(self.size, self.dtype, name=f"cell_{layer}")(states[layer], h))
            h = new[-1].h
        return tuple(new), h


class Predictor(nn.Module):
    """The next frame's code, in ±1, from this frame's code and the latents; 1,134,976 parameters by default."""

    code_dim: int = 128
    size: int = 256
    num_layers: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(self, states: CellStates, code: jax.Array, z: jax.Array) -> tuple[CellStates, jax.Array]:
        """The next states, and [B, code_dim]."""
        inputs = jnp.concatenate([code.astype(z.dtype), z], axis=-1)
        states, h = LSTM(self.size, self.num_layers, self.dtype, name="lstm")(states, inputs)
        return states, jnp.tanh(Dense(self.code_dim, self.dtype, name="code")(h))


class GaussianLSTM(nn.Module):
    """A diagonal Gaussian over the latents of a step, from the codes so far; 592,256 parameters by default."""

    z_dim: int = 64
    size: int = 256
    num_layers: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, states: CellStates, code: jax.Array) -> tuple[CellStates, tuple[jax.Array, jax.Array]]:
        """The next states; mean and log variance [B, z_dim], float32 or wider, the log variance softly within ±20."""
        states, h = LSTM(self.size, self.num_layers, self.dtype, name="lstm")(states, code)
        mean, log_var = (
            Dense(self.z_dim, self.dtype, name=name)(h).astype(states[-1].c.dtype) for name in ("mean", "log_var")
        )
        return states, (mean, bounded(log_var))
