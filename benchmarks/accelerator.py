"""Training steps on a GPU or TPU: first compared with the CPU's results, then timed beside PyTorch on the same GPU.

Command:   make bench-gpu TORCH_PYTHON=PATH     (or: python -m benchmarks.accelerator --torch-python PATH --help)
Writes:    docs/results/accelerator.json, one row per line of the table, with the device, commit and versions.

1. The first losses must equal the CPU's from the same weights and noise, to 1e-4 with float32 products in full
   precision.
2. The rate of a plain matrix product is the limit: in float32 as the device computes it (TF32 on a GPU), and in
   bfloat16.
3. The SVHN step with the batch in the device's memory and many steps per call, in turn with PyTorch, eager and with
   CUDA graphs. PyTorch's losses must equal calibrax's. Without torch, these lines are left out.
4. Several seeds in one program against one after another; the categorical decoder against the Gaussian.
5. The hierarchical and the video model: images/s and their share of the limit, with rematerialisation, in bfloat16.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import calibrax as cx
from benchmarks import suite, train_step
from benchmarks.jax_worker import Resident
from benchmarks.rates import flops, images, parts_and_batch, parts_of, seconds_of
from benchmarks.suite import row
from benchmarks.train_step import BenchError
from calibrax.runs.config import TrainConfig
from calibrax.runs.folder import commit
from calibrax.runs.presets import MODELS
from calibrax.training import create_train_state, jit_step, resident_runs
from calibrax.training.step import PLAIN

RESULTS = Path("docs/results/accelerator.json")
STEPS = 5720  # 10 epochs of SVHN's 73,257 images in batches of 128
TOLERANCE = 1e-4  # relative, for losses with products in full float32
TF32_TOLERANCE = 1e-2  # for losses with fewer bits
NUM_RUNS = 8


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share the device's memory
    return train_step.exit_code(lambda: measure_all(options))


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator", description=(__doc__ or "").split("\n")[0]
    )
    described.add_argument("--torch-python", default=sys.executable, help="an interpreter that has torch, with CUDA")
    described.add_argument("--batch-size", type=int, default=128)
    described.add_argument("--steps", type=int, default=500, help="steps per call, and per block")
    described.add_argument("--blocks", type=int, default=7, help="timed turns")
    described.add_argument("--product", type=int, default=8192, help="rows and columns of the matrix product")
    described.add_argument("--models", nargs="*", default=["hvae", "svg"], choices=sorted(MODELS), help="of part 5")
    described.add_argument("--model-batch", type=int, help="examples per step in part 5 (default: each model's own)")
    described.add_argument("--model-steps", type=int, default=20, help="steps per call in part 5")
    described.add_argument("--trace", help="folder for a profile of twenty SVHN steps, for TensorBoard or Perfetto")
    described.add_argument("--out", default=str(RESULTS), help="the JSON file to write")
    return described


def measure_all(options: argparse.Namespace) -> None:
    train_step.check_positive(options, "batch_size", "steps", "blocks", "product", "model_steps")
    begin, rows, device = time.monotonic(), [], jax.devices()[0]
    for part in (agreement, limits, beside_pytorch, seeds, decoders, models):
        print(f"[{time.monotonic() - begin:4.0f} s] {part.__name__.replace('_', ' ')}", file=sys.stderr, flush=True)
        rows += part(options, {one["name"]: one["ours"]["median"] for one in rows})
    if options.trace:
        trace(options)
    command = " ".join(["python -m benchmarks.accelerator", *sys.argv[1:]])
    record = {"device": device.device_kind, "commit": commit(), "command": command, "machine": suite.machine()}
    record |= {"versions": suite.versions(), "minutes": (time.monotonic() - begin) / 60, "rows": rows}
    print(f"{device.device_kind}\n{suite.table(record)}")
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"\n{options.out}")


def agreement(options: argparse.Namespace, found: dict[str, float]) -> list[dict[str, Any]]:
    """Relative differences of the first losses from the CPU's. BenchError if they are too large."""
    losses = {}
    for name, environment in (
        ("cpu", {"JAX_PLATFORMS": "cpu"}),
        ("full", {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
        ("default", {}),
    ):
        command = [sys.executable, "-m", "benchmarks.jax_worker", "resident", str(options.batch_size)]
        printed = suite.run(command, os.environ | environment, input='{"losses": 5}\n')
        losses[name] = np.array(json.loads(printed))
    rows = []
    for name, limit in (("full", TOLERANCE), ("default", TF32_TOLERANCE)):
        errors = np.abs(losses[name] / losses["cpu"] - 1)
        if not errors.max() <= limit:
            raise BenchError(f"losses in {name} precision differ by {errors.max():.1e} from the CPU's", code=1)
        rows.append(row(f"losses, {name} precision, difference from the CPU's", "relative", list(errors)))
    return rows


def limits(options: argparse.Namespace, found: dict[str, float]) -> list[dict[str, Any]]:
    size, rows = options.product, []
    for dtype in ("float32", "bfloat16"):
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        product = jax.jit(lambda a: a @ a)
        seconds = seconds_of(lambda product=product, matrix=matrix: product(matrix), options.blocks)
        rows.append(row(f"matrix product, {dtype}", "TFLOP/s", [2 * size**3 / value / 1e12 for value in seconds]))
    return rows


def beside_pytorch(options: argparse.Namespace, found: dict[str, float]) -> list[dict[str, Any]]:
    """The step of calibrax in float32 and bfloat16, and of PyTorch, eager and with CUDA graphs, in turn."""
    worker = [sys.executable, "-m", "benchmarks.jax_worker"]
    commands = {
        "calibrax": [*worker, "resident", str(options.batch_size)],
        "calibrax, bfloat16": [*worker, "resident-bfloat16", str(options.batch_size)],
    }
    if has_cuda(options.torch_python):
        twin = [options.torch_python, str(Path(__file__).with_name("torch_twin.py")), str(os.cpu_count()), "cuda"]
        commands |= {"PyTorch eager": twin, "PyTorch, CUDA graphs": [*twin, "graphs"]}
    else:
        print(f"bench: {options.torch_python} has no torch with CUDA; its lines are left out", file=sys.stderr)
    seconds = in_turn(commands, options)
    work, rows = step_flops(options.batch_size), []
    for name in seconds:
        if not name.startswith("calibrax"):
            continue
        steps = [1 / value for value in seconds[name]]
        dtype = "bfloat16" if "bfloat16" in name else "float32"
        rows.append(row(f"step, {dtype}", "1/s", steps, seconds_of_10_epochs=STEPS * float(np.median(seconds[name]))))
        share = [work * value / 1e12 / found[f"matrix product, {dtype}"] for value in steps]
        rows.append(row(f"step, {dtype}, of the product's rate", "share", share))
        for peer in seconds:
            if peer.startswith("calibrax"):
                continue
            ratio = [other / mine for mine, other in zip(seconds[name], seconds[peer], strict=True)]
            peers = [1 / value for value in seconds[peer]]
            rows.append(row(f"step, {dtype}, against {peer}", "1/s", steps, peer=peers, ratio=ratio))
    return rows


def has_cuda(python: str) -> bool:
    try:
        code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def in_turn(commands: dict[str, list[str]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per step of each contender, block by block. The losses of all of them must be calibrax's."""
    with train_step.started(commands) as workers:
        train_step.check_losses(workers, list(workers), TF32_TOLERANCE)
        return train_step.measure(workers, options)


def trace(options: argparse.Namespace) -> None:
    """Write a profile of twenty SVHN steps, without their compilation."""
    call = steps_of(parts_of(), images(options.batch_size), 20)
    jax.block_until_ready(call())
    with jax.profiler.trace(options.trace, create_perfetto_trace=True):
        jax.block_until_ready(call())


@functools.cache
def step_flops(batch_size: int, likelihood: Any = None) -> float:
    """Floating-point operations of a training step of the SVHN network, as XLA counts them."""
    parts, batch = parts_of(likelihood=likelihood), images(batch_size)
    return flops(jit_step(**parts).step, *step_arguments(parts, batch))


def step_arguments(parts: dict[str, Any], batch: np.ndarray, *, ema: bool = False) -> tuple[Any, Any, Any]:
    key = jax.random.key(0)
    init = functools.partial(create_train_state, **parts, ema=ema)
    return jax.eval_shape(init, key, batch[:1]), jnp.asarray(batch), key


def steps_of(parts: dict[str, Any], batch: np.ndarray, num: int, options=PLAIN) -> Callable[[], jax.Array]:
    """A function that takes `num` steps on a batch in the device's memory and returns their losses."""
    key = jax.random.key(0)
    init = functools.partial(create_train_state, **parts, ema=options.ema_decay is not None)
    steps, state = Resident(parts, batch, key, num, options), jax.jit(init)(key, batch[:1])

    def call():
        nonlocal state
        state, metrics = steps(state, 0, num)
        return metrics["loss"]

    return call


def seconds_a_step(parts: dict[str, Any], batch: np.ndarray, num: int, blocks: int, options=PLAIN) -> list[float]:
    return [value / num for value in seconds_of(steps_of(parts, batch, num, options), blocks)]


def seeds(options: argparse.Namespace, found: dict[str, float]) -> list[dict[str, Any]]:
    """The speed-up of several runs in one program over the same runs one after another."""
    parts, batch, num = parts_of(), images(options.batch_size), max(1, options.steps // 5)
    keys = jax.random.split(jax.random.key(0), NUM_RUNS)
    states = jax.jit(jax.vmap(functools.partial(create_train_state, **parts), (0, None)))(keys, batch[:1])
    orders = jnp.tile(jnp.arange(len(batch), dtype=jnp.int32), (NUM_RUNS, num, 1))
    steps, examples = resident_runs(**parts), jax.device_put(batch)

    def together():
        nonlocal states
        states, metrics = steps(states, examples, orders, keys)
        return metrics["loss"]

    alone = float(np.median(seconds_a_step(parts, batch, num, options.blocks)))
    ratio = [NUM_RUNS * alone * num / value for value in seconds_of(together, options.blocks)]
    return [row(f"{NUM_RUNS} seeds in one program, times the throughput of one", "ratio", ratio)]


def decoders(options: argparse.Namespace, found: dict[str, float]) -> list[dict[str, Any]]:
    num, batch = max(1, options.steps // 10), images(options.batch_size)
    gaussian, categorical = (
        seconds_a_step(parts_of(likelihood=likelihood), batch, num, options.blocks)
        for likelihood in (cx.gaussian(), cx.categorical())
    )
    ratio = [value / float(np.median(gaussian)) for value in categorical]
    arithmetic = step_flops(options.batch_size, cx.categorical()) / step_flops(options.batch_size, cx.gaussian())
    return [row("step, categorical against gaussian", "ratio", ratio, arithmetic_ratio=arithmetic)]


def models(options: argparse.Namespace, found: dict[str, float]) -> list[dict[str, Any]]:
    """Images or videos per second of the large models, and their steps' share of the rate of a matrix product."""
    rows = []
    for name in options.models:
        forms: list[dict[str, Any]] = [{}, {"dtype": "bfloat16"}]
        if "remat" in MODELS[name].settings.fields_by_flat_name():
            forms += [{"remat": True}, {"remat": True, "dtype": "bfloat16"}]
        for form in forms:
            config = TrainConfig.for_model(name, **form)
            size: int = options.model_batch or config.run.batch_size
            parts, batch = parts_and_batch(config, size)
            step_options = config.optimizer.make_step_options()
            seconds = seconds_a_step(parts, batch, options.model_steps, options.blocks, step_options)
            dtype, remat = config.model.dtype, form.get("remat", False)
            title = ", ".join([name, dtype, *(["rematerialised"] if remat else [])])
            rows.append(row(title, "1/s", [size / value for value in seconds]))
            if not remat:  # XLA would count the recomputed work as well
                arguments = step_arguments(parts, batch, ema=config.optimizer.ema_decay is not None)
                work = flops(jit_step(**parts, options=step_options).step, *arguments)
                limit = 1e12 * found[f"matrix product, {dtype}"]
                share = [work / value / limit for value in seconds]
                rows.append(row(f"{title}, of the product's rate", "share", share))
    return rows


if __name__ == "__main__":
    sys.exit(main())
