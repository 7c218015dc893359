"""Measuring trained models: held-out likelihood, reconstructions, samples, figures."""

from calibrax.evaluation.likelihood import Evaluation, calibrate_on, evaluate_likelihood, generate, reconstruct

__all__ = ["Evaluation", "calibrate_on", "evaluate_likelihood", "generate", "reconstruct"]
