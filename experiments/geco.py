"""GECO: a reconstruction error to reach in place of a weight (Rezende and Viola 2018, "Taming VAEs", arXiv:1810.00597).

GECO minimises the KL subject to E[|x - x̂|²] ≤ κ². Its loss is KL + λ·(|x - x̂|² - κ²), where the multiplier λ is not
trained but updated after each step. Under a Gaussian of variance σ² = 1/(2λ), -log p(x|z) is λ·|x - x̂|² plus terms
without a gradient. GECO is therefore a Gaussian decoder whose log σ the update of its state moves.
"""

import math

import jax.numpy as jnp
from jax import lax

import calibrax as cx
from calibrax import running_average
from calibrax.likelihoods._base import Link, apply_link
from calibrax.likelihoods._gaussian import gaussian_family
from calibrax.likelihoods._optimal import MIN_LOG_SIGMA
from calibrax.likelihoods._value import constructor

START = -0.5 * math.log(2)  # log σ at λ = 1


@constructor
def geco(tolerance: float, rate: float = 0.01, decay: float = 0.99, *, link: Link = "sigmoid") -> cx.Likelihood:
    """A Gaussian whose σ is moved until the root mean square error is the tolerance κ.

    After each step λ is multiplied by exp(rate·min(C/κ², 1)), where C is the moving average of the constraint, that is
    of the mean squared error minus κ². λ starts at 1, so σ at 0.71; σ rises while the error is below the tolerance, and
    falls while it is above. A tolerance that the network cannot reach leaves σ at its floor, exp(-6).

    This is the paper's Algorithm 1 with three choices of its own. Errors are per value instead of per image. The paper
    leaves open how far log λ moves; here it moves by `rate`·C/κ², which has no units, and at most by `rate`, because
    the first errors are many times κ² (denproc/Taming-VAEs limits the factor to 0.9 to 1.1). The moving average is
    debiased instead of starting at the first error.

    Args:
      tolerance: κ, in units of the data.
      rate: of the multiplier. Rates far above 1 - decay make λ swing, because the average lags.
      decay: of the moving average; the paper's α.
      link: as for `gaussian`.

    Returns:
      A `Likelihood` with one output per channel and no params. Its state is {"log_sigma": [], "mse": a running
      average}. `calibrate` refuses it, because σ is not an average.

    Example:
      >>> likelihood = geco(0.1)
      >>> params, state = likelihood.init((8, 8, 3))
      >>> nll, stats = likelihood.nll(params, state, outputs, x)
      >>> state = likelihood.update(state, stats)
    """
    gaussian = cx.likelihoods.from_family(
        gaussian_family(link), lambda params, state, outputs: (apply_link(link, outputs), state["log_sigma"])
    )

    def init(event_shape):
        params, _ = gaussian.init(event_shape)
        return params, {"log_sigma": jnp.float32(START), "mse": running_average.init()}

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        loss, stats = gaussian.nll(params, state, outputs, x, mask=mask)
        return loss, stats if axis_name is None else stats | {"mse": lax.pmean(stats["mse"], axis_name)}

    def update(state, stats):
        mse = running_average.update(state["mse"], stats["mse"], decay=decay)
        violation = running_average.value(mse, initial=tolerance**2) / tolerance**2 - 1  # C/κ²
        log_sigma = state["log_sigma"] - 0.5 * rate * jnp.minimum(violation, 1.0)  # log λ = -2 log σ - log 2
        return {"log_sigma": jnp.maximum(log_sigma, MIN_LOG_SIGMA), "mse": mse}

    return gaussian._replace(init=init, nll=nll, update=update)
