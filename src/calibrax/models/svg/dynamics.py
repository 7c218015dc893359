"""One time step of SVG, from a frame's code to the next frame's code."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calibrax.models.svg.lstm import CellStates, GaussianLSTM, LSTMState, Predictor
from calibrax.objectives import gaussian_kl


class States(NamedTuple):
    """The states of all LSTM cells, by recurrent part."""

    posterior: CellStates
    prior: CellStates
    predictor: CellStates


class Dynamics(nn.Module):
    """Posterior, learned prior and predictor of codes h: z ~ q(z | next h) or p(z | h), next h = predictor(h, z)."""

    g_dim: int = 128
    z_dim: int = 64
    rnn_size: int = 256
    predictor_layers: int = 2
    posterior_layers: int = 1
    prior_layers: int = 1
    dtype: Any = None

    def setup(self):
        self.predictor = Predictor(self.g_dim, self.rnn_size, self.predictor_layers, self.dtype)
        self.posterior = GaussianLSTM(self.z_dim, self.rnn_size, self.posterior_layers, self.dtype)
        self.prior = GaussianLSTM(self.z_dim, self.rnn_size, self.prior_layers, self.dtype)

    def initial(self, batch_size: int) -> States:
        """The states before the first step, which are zeros."""
        zeros = jnp.zeros((batch_size, self.rnn_size), np.promote_types(self.dtype or np.float32, np.float32))
        layers = (self.posterior_layers, self.prior_layers, self.predictor_layers)
        return States(*(num * (LSTMState(zeros, zeros),) for num in layers))

    def infer(
        self, states: States, code: jax.Array, next_code: jax.Array, noise: jax.Array
    ) -> tuple[States, jax.Array, jax.Array]:
        """One step in which the next frame's code [B, g_dim] is known; noise [B, z_dim] makes the posterior's draw.

        Returns:
          The new states, the predicted code of the next frame [B, g_dim], and KL(q || p) [B], in nats, summed over the
          latents.
        """
        posterior, (mean, log_var) = self.posterior(states.posterior, next_code)
        prior, (prior_mean, prior_log_var) = self.prior(states.prior, code)
        z = mean + jnp.exp(0.5 * log_var) * noise
        predictor, predicted = self.predictor(states.predictor, code, z)
        # In units of the prior's standard deviation the prior is N(0, I).
        kl = gaussian_kl((mean - prior_mean) * jnp.exp(-0.5 * prior_log_var), log_var - prior_log_var)
        return States(posterior, prior, predictor), predicted, kl

    def generate(self, states: States, code: jax.Array, noise: jax.Array) -> tuple[States, jax.Array]:
        """One step in which the next frame is unknown: z is drawn from the prior; the rest is as in `infer`."""
        prior, (mean, log_var) = self.prior(states.prior, code)
        predictor, predicted = self.predictor(states.predictor, code, mean + jnp.exp(0.5 * log_var) * noise)
        return states._replace(prior=prior, predictor=predictor), predicted
