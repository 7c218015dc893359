"""The packages of the extras, which a core installation lacks."""

import importlib.util

from calibrax.runs.settings import ConfigError

# The extra of each, by the name under which it is imported. The functions that need one import it when they are called.
MODULES = {
    "array_record": "train",
    "grain": "train",
    "importlib_resources": "train",
    "matplotlib": "train",
    "PIL": "train",
    "tensorboardX": "train",
    "tensorflow_datasets": "train",
    "trackio": "trackio",
    "tqdm": "train",
    "tyro": "train",
    "wandb": "wandb",
}


def check_extra(*modules: str) -> None:
    """Call this before data are loaded or a folder is created.

    Raises:
      ConfigError: if one of these modules, which are keys of `MODULES`, is not installed; one line that names the
        extra.
    """
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        raise ConfigError(explain(*missing))


def explain(*missing: str) -> str:
    """One line on modules that are not installed."""
    extras = ",".join(sorted({MODULES[module.partition(".")[0]] for module in missing}))
    return f"this needs {', '.join(missing)}, of the extra {extras}: pip install '.[{extras}]' in the checkout"


def is_installed(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
        return spec is not None and spec.origin is not None  # W&B's folder `wandb` passes for a package without a file
    except ImportError:  # by an import hook that refuses it
        return False
