"""Measurements of calibrax alone. Runs as a separate process of `benchmarks.suite` and prints one JSON object per line.

Command:   python -m benchmarks.rates rates | growth | memory | devices N

`rates`: evaluation, sampling, features and metrics as shares of the rate of a plain matrix product in this process.
`growth`: seconds against batch size, resolution, latents and number of images, with the exponent of a fitted power; the
step with each decoder relative to the Gaussian's.
`memory`: how much steps and streamed clips add to the process.
`devices`: seconds per step on N simulated devices, with `pmap` and sharded, 16 examples on each.
"""

import functools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

import calibrax as cx
from benchmarks.soak import resident
from calibrax._malloc import give_back_free_memory, keep_freed_memory
from calibrax.data import MovingDigits, batches
from calibrax.evaluation import Trained, evaluate_likelihood, generate
from calibrax.evaluation.metrics.frame_scores import ssim
from calibrax.evaluation.metrics.inception import _forward_function, features, parameter_shapes
from calibrax.evaluation.metrics.information import monte_carlo
from calibrax.models import ConvVAE, layers
from calibrax.runs import LikelihoodSettings, SVGSettings, TrainConfig
from calibrax.runs.presets import LIKELIHOODS, MODELS
from calibrax.training import StepOptions, Stepper, create_train_state, jit_step, pmap_step, sharded_step
from calibrax.training.devices import compiler_options
from calibrax.training.step import PLAIN

RNG = np.random.default_rng(0)
REPEATS = 5


def main(argv: Sequence[str]) -> int:
    what = argv[0] if argv else ""
    known = {"rates": rates, "growth": growth, "memory": memory, "devices": lambda: devices(int(argv[1]))}
    if what not in known:
        print("bench: expected rates, growth, memory or devices N", file=sys.stderr)
        return 2
    keep_freed_memory()  # as the command line does
    for row in known[what]():
        print(json.dumps(row), flush=True)
    return 0


def seconds_of(call: Callable[[], Any], repeats: int = REPEATS) -> list[float]:
    """The seconds of each of several calls, after one call that compiles."""
    jax.block_until_ready(call())
    give_back_free_memory()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return seconds


def flops(function: Any, *args: Any) -> float:
    """Floating-point operations of a function as XLA counts them, with the convolutions in their plain form."""
    chosen, layers._on_cpu = layers._on_cpu, lambda: False
    try:
        counted: Any = (function if hasattr(function, "lower") else jax.jit(function)).lower(*args).cost_analysis()
    finally:
        layers._on_cpu = chosen
    return (counted[0] if isinstance(counted, list) else counted)["flops"]


def images(num: int, size: int = 28) -> np.ndarray:
    return RNG.integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def parts_of(size: int = 28, latent_dim: int = 20, likelihood: Any = None) -> dict[str, Any]:
    likelihood = likelihood or cx.optimal_sigma()
    model = ConvVAE((size, size, 3), likelihood.output_channels(3), latent_dim)
    return {"model": model, "likelihood": likelihood, "optimizer": optax.adam(1e-3)}


def rates():
    left, right = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((2048, 1152), (1152, 1024)))
    product = jax.jit(jnp.dot, compiler_options=compiler_options())
    limit = 2 * 2048 * 1152 * 1024 / np.array(seconds_of(lambda: product(left, right)))
    yield {"name": "matrix product", "unit": "GFLOP/s", "ours": list(limit / 1e9)}

    parts, examples, key = parts_of(), images(2048), jax.random.key(0)
    model: Any = parts["model"]
    state = create_train_state(key, examples[:1], **parts)
    trained = Trained(model, parts["likelihood"], state.params, state.likelihood_state)
    variables, one = {"params": state.params["model"]}, jax.ShapeDtypeStruct((1, 28, 28, 3), np.uint8)
    forward = flops(lambda x: model.apply(variables, x, jax.random.split(key, 1)), one)
    decode = flops(lambda z: model.apply(variables, z, method="decode"), jnp.zeros((1, 20)))

    def row(name, num, work, seconds):
        """A row for `num` examples of `work` floating-point operations each."""
        share = [num * work / (value * np.median(limit)) for value in seconds]
        return {"name": name, "unit": "1/s", "ours": [num / value for value in seconds], "ratio": share}

    score = functools.partial(evaluate_likelihood, trained, examples, key=key)
    yield row("evaluation, images", len(examples), forward, seconds_of(lambda: score().neg_elbo))
    yield row("sampling, images", 1024, decode, seconds_of(lambda: generate(trained, 1024, key=key)))

    params = unflatten_dict(
        {
            f"{name}.{kind}": RNG.normal(size=shape).astype(np.float32) / math.sqrt(math.prod(kernel[:3]))
            for name, kernel in parameter_shapes(768).items()
            for kind, shape in (("kernel", kernel), ("bias", kernel[3:]))
        },
        sep=".",
    )
    work = flops(_forward_function(768), params, jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8))
    few = images(50, 32)
    found = seconds_of(lambda: features(params, few, feature=768))
    yield row("Inception features to 768, images", len(few), work, found)

    frames = RNG.random((64, 64, 64, 3), np.float32)
    similarity = jax.jit(ssim)
    found = seconds_of(lambda: similarity(frames, frames))
    yield row("SSIM, frames of 64x64x3", len(frames), flops(ssim, frames[:1], frames[:1]), found)


def fitted(name: str, sizes: Sequence[int], measured: list[float], arithmetic: int) -> dict[str, Any]:
    """A row with the exponent of a fitted power, and of the last two points: a constant cost hides early growth."""
    exponent = np.polyfit(np.log(sizes), np.log(measured), 1)[0]
    last = math.log(measured[-1] / measured[-2]) / math.log(sizes[-1] / sizes[-2])
    return {
        "name": name, "unit": "exponent", "ours": [exponent], "last": last, "arithmetic": arithmetic,
        "sizes": list(sizes), "seconds": measured,
    }  # fmt: skip


def stepping(
    parts: dict[str, Any],
    batch: np.ndarray,
    *,
    make: Callable[..., Stepper] = jit_step,
    options: StepOptions = PLAIN,
) -> Callable[[], jax.Array]:
    """A function that takes one more training step and returns its loss."""
    stepper, key = make(**parts, options=options), jax.random.key(0)
    init = functools.partial(create_train_state, **parts, ema=options.ema_decay is not None)
    state = stepper.put_state(jax.jit(init)(key, batch[:1]))

    def step():
        nonlocal state
        state, metrics = stepper.step(state, stepper.put_batch(batch), key)
        return metrics["loss"]

    return step


def step_seconds(batch_size: int, size: int = 28, latent_dim: int = 20, likelihood: Any = None) -> float:
    return float(np.median(seconds_of(stepping(parts_of(size, latent_dim, likelihood), images(batch_size, size)))))


def model_seconds(model: str, batch_size: int) -> float:
    """Seconds per training step of a named model with its default settings."""
    config = TrainConfig.for_model(model)
    parts, batch = parts_and_batch(config, batch_size)
    return float(np.median(seconds_of(stepping(parts, batch, options=config.optimizer.make_step_options()))))


def parts_and_batch(config: TrainConfig, batch_size: int) -> tuple[dict[str, Any], np.ndarray]:
    """The model, likelihood and optimizer of a run, and a batch of noise of the model's first image shape."""
    shape = MODELS[config.model.name].image_shapes[0]
    parts = {
        "model": config.make_model(shape), "likelihood": config.make_likelihood(), "optimizer": config.optimizer.make()
    }  # fmt: skip
    model = config.model
    frames = (model.n_past + model.n_future,) if isinstance(model, SVGSettings) else ()
    return parts, RNG.integers(0, 256, (batch_size, *frames, *shape), dtype=np.uint8)


def growth():
    sizes = [32, 128, 512, 2048]
    yield fitted("training step against batch size", sizes, [step_seconds(n) for n in sizes], 1)
    sizes = [28, 64, 128]
    yield fitted("training step against height and width", sizes, [step_seconds(16, n) for n in sizes], 2)
    sizes = [16, 256, 4096]
    yield fitted("training step against latents", sizes, [step_seconds(64, latent_dim=n) for n in sizes], 1)
    for model, sizes in (("hvae-small", [8, 16, 32]), ("svg-small", [4, 8, 16])):
        measured = [model_seconds(model, n) for n in sizes]
        yield fitted(f"training step of {model} against batch size", sizes, measured, 1)
    gaussian = step_seconds(32, likelihood=cx.gaussian())
    for name, make in LIKELIHOODS.items():
        if name != "gaussian":
            ratio = step_seconds(32, likelihood=make(LikelihoodSettings(name))) / gaussian
            yield {"name": f"training step, {name} against gaussian", "unit": "ratio", "ours": [ratio]}

    parts, key = parts_of(), jax.random.key(0)
    state = create_train_state(key, images(1), **parts)
    trained = Trained(parts["model"], parts["likelihood"], state.params, state.likelihood_state)
    sizes, measured = [1024, 2048, 4096], []
    for num in sizes:
        examples = images(num)
        call = functools.partial(evaluate_likelihood, trained, examples, key=key)
        measured.append(float(np.median(seconds_of(lambda call=call: call().neg_elbo))))
    yield fitted("evaluation against images", sizes, measured, 1)
    sizes, measured = [1024, 2048, 4096], []
    for num in sizes:
        mean, log_var = RNG.normal(size=(2, num, 20)).astype(np.float32)
        call = functools.partial(monte_carlo, mean, log_var, key=key, num_draws=1024)
        measured.append(float(np.median(seconds_of(lambda call=call: call()[0]))))
    yield fitted("marginal KL of 1,024 draws against images", sizes, measured, 1)


def memory():
    """How much the resident memory of this process grows with the work done; 0 if it is constant."""
    step = stepping(parts_of(), images(16))
    yield {"name": "memory, 1,000 training steps", "unit": "MiB", "ours": mebibytes_of(step, 200, 100)}
    clips = batches(MovingDigits(num=1_000_000), 10, seed=0)
    grown = mebibytes_of(lambda: next(clips), 50, 10)
    yield {"name": "memory, 1,000 clips drawn of a million", "unit": "MiB", "ours": grown}


def mebibytes_of(call: Callable[[], Any], before: int, num: int) -> list[float]:
    """Growth of resident memory in ten rounds of `num` calls, each times ten, so that a single jump shows as such."""
    jax.block_until_ready(call())
    give_back_free_memory()
    for _ in range(before):
        jax.block_until_ready(call())
    held = [resident()]
    for _ in range(10):
        for _ in range(num):
            jax.block_until_ready(call())
        held.append(resident())
    return list(10 * np.diff(held))


def devices(num: int):
    for make in (jit_step,) if num == 1 else (pmap_step, sharded_step):
        seconds = seconds_of(stepping(parts_of(), images(16 * num), make=make))
        yield {"name": make.__name__.removesuffix("_step"), "devices": num, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
