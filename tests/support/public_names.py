"""The public functions and classes."""

import importlib
import inspect

MODULES = [
    "calibrax",
    "calibrax.likelihoods",
    "calibrax.objectives",
    "calibrax.running_average",
    "calibrax.linen",
    "calibrax.nnx",
    "calibrax.interop",
    "calibrax.models",
    "calibrax.training",
    "calibrax.data",
    "calibrax.evaluation",
    "calibrax.runs",
]


def public_objects(module_name: str) -> dict[str, object]:
    """The public functions and classes of a module: of its `__all__`, or those that it defines without underscore."""
    module = importlib.import_module(module_name)
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module_name
    ]
    values = {name: getattr(module, name) for name in names}
    return {name: value for name, value in values.items() if inspect.isclass(value) or inspect.isroutine(value)}


PUBLIC = {f"{module}.{name}": value for module in MODULES for name, value in public_objects(module).items()}
