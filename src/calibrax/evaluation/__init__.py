"""Measuring trained models: likelihood, calibration, information, FID; reconstructions, samples, figures."""

from calibrax.evaluation.metrics.calibration import Calibration, evaluate_calibration, evaluate_model_calibration
from calibrax.evaluation.metrics.distances import frechet_distance, kid, moments
from calibrax.evaluation.metrics.hierarchy import Traversal, partial_samples, traversal
from calibrax.evaluation.metrics.importance import importance_bounds
from calibrax.evaluation.metrics.information import Information, encode_all, measure_information
from calibrax.evaluation.metrics.likelihood import Evaluation, evaluate_likelihood
from calibrax.evaluation.metrics.linear_vae import collapse_sigma
from calibrax.evaluation.trained import Trained, calibrate_on, generate, reconstruct

__all__ = [
    "Calibration",
    "Evaluation",
    "Information",
    "Trained",
    "Traversal",
    "calibrate_on",
    "collapse_sigma",
    "encode_all",
    "evaluate_calibration",
    "evaluate_likelihood",
    "evaluate_model_calibration",
    "frechet_distance",
    "generate",
    "importance_bounds",
    "kid",
    "measure_information",
    "moments",
    "partial_samples",
    "reconstruct",
    "traversal",
]
