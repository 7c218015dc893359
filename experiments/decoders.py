"""The paper's decoders, under the names of its tables, as rows without the paper's numbers."""

from experiments.sweep import Case

# Remarks that several tables share.
SHARED_IS_SLOW = "Adam at 1e-3 moves the shared log σ by about 0.001 a step: it takes some 3,000 steps to arrive."
NO_DENSITY = "Bernoulli on intensities is no density over pixels: neither the paper nor this table gives its -log p."
UNKNOWN_SIGMA = "An image's own σ is unknown until it is seen: the paper has no -log p; here by the running average."

BERNOULLI = Case("Bernoulli VAE", {"likelihood": "bernoulli"}, doubts={"neg_log_p": NO_DENSITY}, is_density=False)
CATEGORICAL = Case("Categorical VAE", {"likelihood": "categorical"}, is_discrete=True)
BITWISE = Case("Bitwise-categorical VAE", {"likelihood": "bitwise-categorical"}, is_discrete=True)
MIXTURE = Case("Logistic mixture VAE", {"likelihood": "logistic-mixture"}, is_discrete=True)
GAUSSIAN = Case("Gaussian VAE", {"likelihood": "gaussian"})
STUDENT_T = Case("Student-t VAE", {"likelihood": "student-t"})
PIXEL = Case("Per-pixel σ-VAE", {"likelihood": "pixel-sigma"})
SHARED = Case("Shared σ-VAE", {"likelihood": "shared-sigma"})
SHARED_FROM_DATA = SHARED.with_settings(start_scales=True)._replace(label="Shared σ-VAE, started from the data")
OPTIMAL = Case("Optimal σ-VAE", {"likelihood": "optimal-sigma"})
OPTIMAL_IMAGE = Case(
    "Optimal per-image σ-VAE", {"likelihood": "optimal-sigma-per-image"}, doubts={"neg_log_p": UNKNOWN_SIGMA}
)
DISCRETIZED_GAUSSIAN = Case("Discretised Gaussian σ-VAE", {"likelihood": "discretized-gaussian"}, is_discrete=True)
DISCRETIZED_LOGISTIC = Case("Discretised logistic σ-VAE", {"likelihood": "discretized-logistic"}, is_discrete=True)


def beta_vae(beta: float) -> Case:
    """The β-VAE: a Gaussian of variance β/2 (section 5.1)."""
    return Case(f"β-VAE, β = {beta:g}", {"likelihood": "beta-gaussian", "beta": beta})
