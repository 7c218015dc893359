"""The paper's decoders by the names of its tables, as settings of a run."""

from typing import Any

BERNOULLI = ("Bernoulli VAE", {"likelihood": "bernoulli"})
CATEGORICAL = ("Categorical VAE", {"likelihood": "categorical"})
BITWISE = ("Bitwise-categorical VAE", {"likelihood": "bitwise-categorical"})
MIXTURE = ("Logistic mixture VAE", {"likelihood": "logistic-mixture"})
GAUSSIAN = ("Gaussian VAE", {"likelihood": "gaussian"})
STUDENT_T = ("Student-t VAE", {"likelihood": "student-t"})
PIXEL = ("Per-pixel σ-VAE", {"likelihood": "pixel-sigma"})
SHARED = ("Shared σ-VAE", {"likelihood": "shared-sigma"})
OPTIMAL = ("Optimal σ-VAE", {"likelihood": "optimal-sigma"})
OPTIMAL_IMAGE = ("Optimal per-image σ-VAE", {"likelihood": "optimal-sigma-per-image"})
DISCRETIZED_GAUSSIAN = ("Discretised Gaussian σ-VAE", {"likelihood": "discretized-gaussian"})
DISCRETIZED_LOGISTIC = ("Discretised logistic σ-VAE", {"likelihood": "discretized-logistic"})

# Remarks and doubts that more than one table has.
SHARED_IS_SLOW = "Adam at 1e-3 moves the shared log σ by about 0.001 a step: it takes some 3,000 steps to arrive."
NO_DENSITY = "Bernoulli on intensities is no density over pixels: neither the paper nor this table gives its -log p."
UNKNOWN_SIGMA = "An image's own σ is unknown until it is seen: the paper has no -log p; here by the running average."


def beta_vae(beta: float) -> tuple[str, dict[str, Any]]:
    """The β-VAE as a Gaussian of variance β/2 (section 5.1)."""
    return f"β-VAE, β = {beta:g}", {"likelihood": "beta-gaussian", "beta": beta}
