"""Eight simulated devices and strict JAX for every test; what takes long to compile is compiled once."""

import contextlib
import http.server
import os
import threading
from pathlib import Path

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "compilations"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"  # compilation is what takes long
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def real_data() -> Path:
    """The folder of real images, where the environment names one."""
    folder = os.environ.get("CALIBRAX_DATA_DIR")
    if not folder:
        pytest.skip("CALIBRAX_DATA_DIR is not set: no real images here")
    return Path(folder)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def serve():
    """`serve(handler)` starts a server on the loopback address, which ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(handler):
            httpd = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            httpd.daemon_threads = True
            threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(httpd.shutdown)
            return httpd

        yield start
