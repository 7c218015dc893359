"""Runs: what the command line does with a folder, as functions."""

from calibrax.runs.config import DataSettings, OptimizerSettings, RunSettings, TrainConfig
from calibrax.runs.folder import RunError
from calibrax.runs.loggers import Logger, LoggerError
from calibrax.runs.presets import ConvVAESettings, HVAESettings, LikelihoodSettings, SVGSettings
from calibrax.runs.run import Run, load_data
from calibrax.runs.settings import ConfigError
from calibrax.runs.train_run import train

__all__ = [
    "ConfigError",
    "ConvVAESettings",
    "DataSettings",
    "HVAESettings",
    "LikelihoodSettings",
    "Logger",
    "LoggerError",
    "OptimizerSettings",
    "Run",
    "RunError",
    "RunSettings",
    "SVGSettings",
    "TrainConfig",
    "load_data",
    "train",
]
