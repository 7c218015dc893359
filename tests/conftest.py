"""Eight simulated devices, strict JAX, a cache of compiled programs, and a bound on the memory of each worker."""

import contextlib
import gc
import http.server
import os
import resource
import shutil
import sys
import threading
import types
from pathlib import Path

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "compilations"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"  # compiling takes most of the time
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from flax import nnx

import calibrax
from calibrax._malloc import give_back_free_memory

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


if not hasattr(jax, "enable_x64"):  # on JAX 0.4.33, the core's floor
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64

if not hasattr(nnx, "data"):  # on Flax 0.10.2, the core's floor, where `calibrax.nnx` is refused

    class NoNNX(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            pytest.skip("calibrax.nnx needs Flax 0.12", allow_module_level=True)

    calibrax.nnx = sys.modules["calibrax.nnx"] = NoNNX("calibrax.nnx")


PEAKS: dict[str, float] = {}  # GiB, by worker


@pytest.fixture(autouse=True)
def _free_memory():
    """Drop the compiled programs where a worker holds more than 1.3 GiB: all together would take several."""
    yield
    if resident() > 1.3:
        jax.clear_caches()
        gc.collect()
        give_back_free_memory()


def resident() -> float:
    """GiB of memory that this process holds; 0 where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * resource.getpagesize() / 2**30


def pytest_sessionfinish(session):
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak
    elif not session.config.getoption("numprocesses", None):
        PEAKS["this process"] = peak


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    PEAKS[node.gateway.id] = getattr(node, "workeroutput", {}).get("peak", float("nan"))


def pytest_terminal_summary(terminalreporter):
    listed = ", ".join(f"{name} {peak:.2f} GiB" for name, peak in PEAKS.items())
    terminalreporter.write_line(f"peak resident memory: {listed}")


@pytest.fixture
def real_data() -> Path:
    """The folder of real images that the environment names; without one, the test is skipped."""
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
    """`serve(handler)` starts a server on the loopback address; it stops when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(handler):
            httpd = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            httpd.daemon_threads = True
            threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(httpd.shutdown)
            return httpd

        yield start


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder with the images `tiny.npz` and the run `run` on them: three epochs of three steps. Not to be changed."""
    from tiny_runs import train_args, write_images

    from calibrax import cli

    folder = tmp_path_factory.mktemp("finished")
    with jax.numpy_dtype_promotion("standard"):
        images = write_images(folder / "tiny.npz")
        assert cli.main(train_args(images, folder / "run")) == 0
    return folder


@pytest.fixture
def run_copy(finished, tmp_path) -> Path:
    """A copy of that run."""
    return shutil.copytree(finished / "run", tmp_path / "run")
