"""What SVG does in one step of time between a frame's code and the next one's."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.svg.lstm import GaussianLSTM, LSTMState, Predictor
from calibrax.models.svg.precision import at_least_float32
from calibrax.objectives import gaussian_kl


class States(NamedTuple):
    """The states of the LSTM cells of each recurrent part."""

    posterior: tuple[LSTMState, ...]
    prior: tuple[LSTMState, ...]
    predictor: tuple[LSTMState, ...]


class Dynamics(nn.Module):
    """Posterior, learned prior and predictor, between codes h: z ~ q(z | next h) or p(z | h), next h = predictor(h, z).

    Attributes:
      g_dim, z_dim, rnn_size, predictor_layers, posterior_layers, prior_layers, dtype: as in `SVG`.
    """

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
        """Zeros."""
        zeros = jnp.zeros((batch_size, self.rnn_size), at_least_float32(self.dtype))
        layers = (self.posterior_layers, self.prior_layers, self.predictor_layers)
        return States(*(num * (LSTMState(zeros, zeros),) for num in layers))

    def infer(
        self, states: States, code: jax.Array, next_code: jax.Array, noise: jax.Array
    ) -> tuple[States, jax.Array, jax.Array]:
        """One step where the next frame is known.

        Args:
          states: after the step before.
          code, next_code: of this frame and of the next, [B, g_dim].
          noise: [B, z_dim], standard normal, which makes the draw from the posterior.

        Returns:
          The states, the next frame's code as predicted [B, g_dim], and KL(q || p) [B], nats, summed over latents.
        """
        posterior, (mean, log_var) = self.posterior(states.posterior, next_code)
        prior, (prior_mean, prior_log_var) = self.prior(states.prior, code)
        z = mean + jnp.exp(0.5 * log_var) * noise
        predictor, predicted = self.predictor(states.predictor, code, z)
        # In units of the prior's standard deviation the prior is N(0, I).
        kl = gaussian_kl((mean - prior_mean) * jnp.exp(-0.5 * prior_log_var), log_var - prior_log_var)
        return States(posterior, prior, predictor), predicted, kl

    def generate(self, states: States, code: jax.Array, noise: jax.Array) -> tuple[States, jax.Array]:
        """One step where the next frame is unknown: the draw is from the prior; arguments and results as of `infer`."""
        prior, (mean, log_var) = self.prior(states.prior, code)
        predictor, predicted = self.predictor(states.predictor, code, mean + jnp.exp(0.5 * log_var) * noise)
        return states._replace(prior=prior, predictor=predictor), predicted
