"""Results as a table for people."""

from collections.abc import Mapping

from calibrax.evaluation.metrics.likelihood import Evaluation

ROWS = (
    ("-ELBO (nats)", "neg_elbo", "{:.1f}"),
    ("  standard error", "neg_elbo_stderr", "{:.1f}"),
    ("rate: KL (nats)", "rate", "{:.1f}"),
    ("distortion (nats)", "distortion", "{:.1f}"),
    ("-log P, 256 levels", "discretized_neg_elbo", "{:.1f}"),
    ("bits/dim, 256 levels", "bits_per_dim", "{:.3f}"),
    ("MSE", "mse", "{:.6f}"),
    ("sigma", "sigma", "{:.5f}"),
    ("effective beta", "effective_beta", "{:.6f}"),
)


def results_table(title: str, results: Mapping[str, Evaluation], *, frames: int | None = None) -> str:
    """The evaluations side by side, one column each; a dash where a decoder has no such number.

    Where a column's σ comes from is its name: `running average` is the training-time average, `calibrated` the exact
    one over the training images with the final parameters.

    Args:
      title: the first line.
      results: by the column's name.
      frames: of videos, how many of each are scored: -ELBO stands there for a frame too.
    """
    width = max(16, *(len(name) for name in results))
    lines = [title, " " * 22 + "".join(f"{name:>{width + 2}}" for name in results)]
    rows = [(label, form, [getattr(result, field) for result in results.values()]) for label, field, form in ROWS]
    if frames is not None:
        rows.insert(2, (f"  a frame, of {frames}", "{:.1f}", [result.neg_elbo / frames for result in results.values()]))
    for label, form, values in rows:
        cells = ("-" if value is None else form.format(value) for value in values)
        lines.append(f"{label:<22}" + "".join(f"{cell:>{width + 2}}" for cell in cells))
    return "\n".join(lines)
