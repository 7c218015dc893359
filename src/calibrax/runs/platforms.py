"""Whether JAX can use the platform that the user asked for: CPU, GPU or TPU."""

import os

import jax
from jax.extend.backend import backends, clear_backends

from calibrax.runs.settings import ConfigError


def check_platforms() -> None:
    """Start JAX on the platforms that the user asked for.

    Call this before data are loaded or a folder is created, and after `jax.distributed.initialize`.

    Raises:
      ConfigError: if JAX cannot; one line that names what was asked for and the platforms that are there.
    """
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # JAX asserts where CUDA was asked for and there is no GPU
        raise ConfigError(_explain(error)) from error


def _explain(error: Exception) -> str:
    asked = {"JAX_PLATFORMS": jax.config.values["jax_platforms"]}
    asked |= {name: os.environ.get(name) for name in ("JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES")}
    settings = " and ".join(f"{name} is {value!r}" for name, value in asked.items() if value is not None)
    reason = str(error).split(" (set JAX_PLATFORMS")[0].split(" (you may need")[0]
    if "known backends" in reason:  # JAX lists those that it was built for, which need not be there
        reason = ""
    usable = f"the platforms here are {', '.join(_usable_platforms())}; set JAX_PLATFORMS to one of them"
    return f"{settings or 'JAX cannot start'}; {usable}" + (f" ({reason})" if reason else "")


def _usable_platforms() -> list[str]:
    """The values of JAX_PLATFORMS that work here, found without what the user asked for."""
    asked = jax.config.values["jax_platforms"]
    try:
        jax.config.update("jax_platforms", None)
        clear_backends()
        return list(backends())
    except (AssertionError, RuntimeError):
        return ["cpu"]  # a plugin for another platform is broken; the CPU is always there
    finally:
        jax.config.update("jax_platforms", asked)
        clear_backends()
