"""Measuring trained models: likelihood, calibration, information, FID; reconstructions, samples, figures."""

from calibrax.evaluation.metrics.calibration import Calibration, evaluate_calibration, evaluate_model_calibration
from calibrax.evaluation.metrics.fid import frechet_distance, kid, moments
from calibrax.evaluation.metrics.hierarchy import Traversal, active_layers, layer_kls, partial_samples, traversal
from calibrax.evaluation.metrics.importance import importance_bounds
from calibrax.evaluation.metrics.information import Information, encode_all, measure_information
from calibrax.evaluation.metrics.likelihood import (
    Evaluation,
    Trained,
    calibrate_on,
    evaluate_likelihood,
    generate,
    reconstruct,
)

__all__ = [
    "Calibration",
    "Evaluation",
    "Information",
    "Trained",
    "Traversal",
    "active_layers",
    "calibrate_on",
    "encode_all",
    "evaluate_calibration",
    "evaluate_likelihood",
    "evaluate_model_calibration",
    "frechet_distance",
    "generate",
    "importance_bounds",
    "kid",
    "layer_kls",
    "measure_information",
    "moments",
    "partial_samples",
    "reconstruct",
    "traversal",
]
