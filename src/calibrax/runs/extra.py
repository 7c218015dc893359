"""The packages of the extra `train`, which a core installation lacks."""

import importlib.util

from calibrax.runs.settings import ConfigError

# As they are imported. The functions that need one import it when they are called.
MODULES = (
    "array_record",
    "grain",
    "importlib_resources",
    "matplotlib",
    "PIL",
    "tensorboardX",
    "tensorflow_datasets",
    "tqdm",
    "tyro",
)


def check_extra(*modules: str) -> None:
    """Call this before data are loaded or a folder is created.

    Raises:
      ConfigError: if one of these modules is not installed; one line that names the extra.
    """
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        raise ConfigError(explain(*missing))


def explain(*missing: str) -> str:
    """One line on modules of the extra that are not installed."""
    return f"this needs {', '.join(missing)}, of the extra train: pip install '.[train]' in the checkout"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # by an import hook that refuses it
        return False
