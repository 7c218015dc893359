"""A world model without loss weights: a recurrent state-space model of gymnasium's Pendulum and CartPole.

Command:   make world-model           (or: python -m examples.world_model --help)
Device:    one CPU; about 10 minutes on two cores, and twice that with --seeds 2 as in the committed table.
Prints:    for each environment and loss: the error of open-loop predictions of each modality over 15 steps, relative
           to the modality's variance, and the nats per step of held-out sequences.
Writes:    table.md, table.csv, provenance.json, frames.png and horizon.png into runs/world-model or the folder given by
           --out.

The model predicts a frame, the state, the reward and whether the episode continues. Three kinds of loss train the same
network on the same batches, from the same initial weights:
- `joint` of `optimal_sigma` for frame, state and reward and of `bernoulli` for the flag, with no weights;
- squared errors with weight 1, as DreamerV3 has them: of the frame, and of the symlog of state and reward;
- squared errors with weights by hand: a grid over the weight of the frame and that of state and reward.
Nats compare between them because each gets its best σ afterwards, by `cx.calibrate` on the training sequences.
"""

import argparse
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import calibrax as cx
from calibrax import cli
from calibrax.objectives import gaussian_kl

LENGTH, CONTEXT = 20, 5  # steps of a sequence; the first ones are observed, the others predicted
SIZE, PATCH = 64, 8  # pixels
HIDDEN, LATENTS, BATCH = 128, 16, 8
WIDTH = 16  # channels of a patch
FRAME_WEIGHTS, VECTOR_WEIGHTS = (30.0, 1000.0), (1.0, 30.0, 1000.0)  # the grid; the second is for state and reward
MODALITIES = {"image": "frame", "state": "state", "reward": "reward", "continues": "flag"}
ENVIRONMENTS = ("Pendulum-v1", "CartPole-v1")
PACKAGES = ("gymnasium", "pygame", "pillow")


class Sequences(NamedTuple):
    """N sequences of T steps. What stands after the end of an episode does not count."""

    x: dict[str, jax.Array]  # image uint8 [N, T, 64, 64, 1], state [N, T, D], reward [N, T], continues bool [N, T]
    actions: jax.Array  # [N, T, 1]: the action that led to the step
    mask: jax.Array  # bool [N, T]: False after the end of the episode


# Data


def play(environment: str, num: int, seed: int) -> Sequences:
    """Sequences under random actions, each from an episode of its own and from a random step of it on."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no display
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import gymnasium
    from PIL import Image

    # The reward of Sutton and Barto is -1 when the pole falls. The default is 1 at every step.
    options = {"sutton_barto_reward": True} if environment.startswith("CartPole") else {}
    env = gymnasium.make(environment, render_mode="rgb_array", **options)
    rng = np.random.default_rng(seed)
    env.action_space.seed(seed)
    num_states = env.observation_space.shape[0]
    x = {
        "image": np.zeros((num, LENGTH, SIZE, SIZE, 1), np.uint8),
        "state": np.zeros((num, LENGTH, num_states), np.float32),
        "reward": np.zeros((num, LENGTH), np.float32),
        "continues": np.zeros((num, LENGTH), bool),
    }
    actions, mask = np.zeros((num, LENGTH, 1), np.float32), np.zeros((num, LENGTH), bool)
    for sequence in range(num):
        ended = True
        while ended:  # until an episode is longer than the steps before the sequence
            env.reset(seed=int(rng.integers(2**31)))
            ended = any(env.step(env.action_space.sample())[2] for _ in range(rng.integers(20)))
        for step in range(LENGTH):
            action = env.action_space.sample()
            state, reward, ended, *_ = env.step(action)
            frame = Image.fromarray(env.render()).convert("L").resize((SIZE, SIZE), Image.Resampling.BOX)
            x["image"][sequence, step, ..., 0] = frame
            x["state"][sequence, step], x["reward"][sequence, step] = state, reward
            x["continues"][sequence, step] = not ended
            # Torques from -2 to 2, or a push to the left or right.
            actions[sequence, step] = (
                2 * action - 1 if isinstance(env.action_space, gymnasium.spaces.Discrete) else action / 2
            )
            mask[sequence, step] = True
            if ended:
                break
    env.close()
    return jax.tree.map(jnp.asarray, Sequences(x, actions, mask))


# Losses


Outputs = dict[str, jax.Array]


def as_they_are(outputs: Outputs) -> Outputs:
    return outputs


class Contender(NamedTuple):
    """A loss, and how the decoder's outputs become those of a likelihood of the data in their own units."""

    name: str
    make: Callable[[jax.Array], cx.Likelihood]  # from the weights; x is a pair (x, mask) of [B, T, ...]
    weights: tuple[float, float] = (1.0, 1.0)  # of the frame, and of state and reward
    in_units: Callable[[Outputs], Outputs] = as_they_are


def sequences(**parts: cx.Likelihood) -> cx.Likelihood:
    """The likelihood of sequences: one nll per step, [B, T]."""
    return cx.batched(cx.masked(cx.joint(parts)))


def without_weights(weights: jax.Array | None = None) -> cx.Likelihood:
    """The decoder that this page is about; it has no use for weights."""
    return sequences(
        image=cx.optimal_sigma(),
        state=cx.optimal_sigma(axis="channel", link="identity"),
        reward=cx.optimal_sigma(link="identity"),
        continues=cx.bernoulli(),
    )


# The nll is the squared error, summed over the event, plus a constant.
SQUARED_ERROR = cx.gaussian(0.5**0.5, link="identity")
SQUARED_ERROR_OF_FRAMES = cx.gaussian(0.5**0.5)


def as_dreamer(weights: jax.Array) -> cx.Likelihood:
    """DreamerV3's squared errors, with weight 1."""
    vector = cx.transformed(SQUARED_ERROR, cx.symlog)
    return sequences(image=SQUARED_ERROR_OF_FRAMES, state=vector, reward=vector, continues=cx.bernoulli())


def symexp_of_vectors(outputs: Outputs) -> Outputs:
    return outputs | {name: cx.symlog.inverse(outputs[name]) for name in ("state", "reward")}


def by_hand(weights: jax.Array) -> cx.Likelihood:
    image, vector = weights
    return sequences(
        image=cx.tempered(SQUARED_ERROR_OF_FRAMES, image),
        state=cx.tempered(SQUARED_ERROR, vector),
        reward=cx.tempered(SQUARED_ERROR, vector),
        continues=cx.bernoulli(),
    )


def contenders() -> list[Contender]:
    grid = itertools.product(FRAME_WEIGHTS, VECTOR_WEIGHTS)
    return [
        Contender("joint, no weights", without_weights),
        Contender("squared errors, symlog", as_dreamer, in_units=symexp_of_vectors),
        *(Contender(f"weights {image:g}, {vector:g}", by_hand, (image, vector)) for image, vector in grid),
    ]


# Model


class Transition(nn.Module):
    """One step: the deterministic h, the stochastic z, and KL(posterior || prior) in nats."""

    @nn.compact
    def __call__(self, carry, inputs):
        h, z = carry
        embedding, action, observed, noise = inputs
        h, _ = nn.GRUCell(HIDDEN)(h, jnp.concatenate([z, action], axis=-1))
        prior_mean, prior_log_std = self.gaussian("prior", h)
        mean, log_std = self.gaussian("posterior", jnp.concatenate([h, embedding], axis=-1))
        # KL of two Gaussians: in units of the prior, it is the KL to a standard normal.
        kl = gaussian_kl((mean - prior_mean) * jnp.exp(-prior_log_std), 2 * (log_std - prior_log_std))
        mean, log_std = jnp.where(observed, mean, prior_mean), jnp.where(observed, log_std, prior_log_std)
        z = mean + jnp.exp(log_std) * noise
        return (h, z), (h, z, kl)

    def gaussian(self, name: str, inputs):
        """Mean and log standard deviation, of which the second is within ±5."""
        hidden = nn.silu(nn.Dense(HIDDEN, name=f"{name}_hidden")(inputs))
        mean, log_std = jnp.split(nn.Dense(2 * LATENTS, name=name)(hidden), 2, axis=-1)
        return mean, 5 * jnp.tanh(log_std / 5)


class WorldModel(nn.Module):
    """A recurrent state-space model. Frames are read and drawn in patches of 8×8, which a CPU multiplies fast."""

    num_states: int

    @nn.compact
    def __call__(self, data: Sequences, observed: jax.Array, key: jax.Array):
        """Outputs of the decoder, [B, T, ...], and the KL, [B, T]. Where observed [B, T] is False, z is predicted."""
        num, steps = data.mask.shape
        noise = jax.random.normal(key, (num, steps, LATENTS))
        scan = nn.scan(Transition, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        start = jnp.zeros((num, HIDDEN)), jnp.zeros((num, LATENTS))
        _, (h, z, kl) = scan()(start, (self.encode(data.x), data.actions, observed[..., None], noise))
        return self.decode(jnp.concatenate([h, z], axis=-1)), jnp.where(observed & data.mask, kl, 0)

    def encode(self, x):
        num, steps = x["reward"].shape
        grid = SIZE // PATCH
        pixels = 1 - x["image"].astype(jnp.float32) / 255  # the background is white
        patches = pixels.reshape(num, steps, grid, PATCH, grid, PATCH).swapaxes(3, 4)
        patches = patches.reshape(num, steps, grid * grid, PATCH * PATCH)
        image = nn.silu(nn.Dense(WIDTH, name="patches")(patches)).reshape(num, steps, -1)
        rest = jnp.concatenate([cx.symlog.forward(x["state"]), cx.symlog.forward(x["reward"])[..., None]], axis=-1)
        hidden = nn.Dense(HIDDEN, name="image")(image) + nn.Dense(HIDDEN, name="rest")(rest)
        return nn.silu(nn.Dense(HIDDEN, name="embedding")(nn.silu(hidden)))

    def decode(self, features):
        num, steps, _ = features.shape
        grid = SIZE // PATCH
        hidden = nn.silu(nn.Dense(HIDDEN, name="decoder_hidden")(features))
        patches = nn.silu(nn.Dense(grid * grid * WIDTH, name="decoder_patches")(hidden))
        pixels = nn.Dense(PATCH * PATCH, name="pixels")(patches.reshape(num, steps, grid * grid, WIDTH))
        image = pixels.reshape(num, steps, grid, grid, PATCH, PATCH).swapaxes(3, 4)
        hidden = nn.silu(nn.Dense(HIDDEN, name="decoder_rest")(features))
        return {
            "image": 2 + image.reshape(num, steps, SIZE, SIZE, 1),  # sigmoid(2) is 0.88: most pixels are white
            "state": nn.Dense(self.num_states, name="state")(hidden),
            "reward": nn.Dense(1, name="reward")(hidden)[..., 0],
            "continues": nn.Dense(1, name="continues")(hidden)[..., 0],
        }


# Training and evaluation


def first_steps(num: Any) -> jax.Array:
    """True for the first steps of a sequence: [T] for a number of them, [B, T] for [B, 1] numbers."""
    return jnp.arange(LENGTH) < num


@functools.cache
def training_functions(
    make: Callable[[jax.Array], cx.Likelihood], num_states: int, num_steps: int, shortest: int
) -> tuple[Any, Any]:
    """`init` and `step`, compiled once for all weights and seeds."""
    model = WorldModel(num_states)
    optimizer = optax.chain(optax.clip_by_global_norm(1000.0), optax.adam(optax.cosine_decay_schedule(3e-3, num_steps)))
    shapes = {"image": (SIZE, SIZE, 1), "state": (num_states,), "reward": (), "continues": ()}

    def loss_fn(variables, state, weights, batch, key):
        noise_key, context_key = jax.random.split(key)
        observed = first_steps(jax.random.randint(context_key, (len(batch.mask), 1), shortest, LENGTH + 1))
        outputs, kl = model.apply(variables, batch, observed, noise_key)
        likelihood = make(weights)
        nll, stats = likelihood.nll({}, state, outputs, (batch.x, batch.mask))  # [B, T]
        loss = jnp.sum(nll + kl) / jnp.sum(batch.mask)
        return loss, likelihood.update(state, stats)

    @jax.jit
    def init(weights, data, key):
        variables = model.init(key, jax.tree.map(lambda leaf: leaf[:1], data), data.mask[:1], key)
        return variables, optimizer.init(variables), make(weights).init(shapes)[1]

    @jax.jit
    def step(variables, opt_state, state, weights, data, key):
        row_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (BATCH,), 0, len(data.mask))
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        grads, state = jax.grad(loss_fn, has_aux=True)(variables, state, weights, batch, noise_key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(variables, updates), opt_state, state

    return init, step


def train(contender: Contender, data: Sequences, seed: int, num_steps: int, shortest: int = 1) -> Any:
    """The network's variables after training with the loss nll + KL, in which each sequence is observed for a random
    number of steps, `shortest` to all, and predicted from there.
    """
    init, step = training_functions(contender.make, data.x["state"].shape[-1], num_steps, shortest)
    weights = jnp.asarray(contender.weights)
    init_key, train_key = jax.random.split(jax.random.key(seed))
    carry = init(weights, data, init_key)
    for key in jax.random.split(train_key, num_steps):
        carry = step(*carry, weights, data, key)
    return carry[0]


@functools.cache
def decoding(in_units: Callable[[Outputs], Outputs], num_states: int) -> tuple[Any, Any]:
    """`decode` and `score`, compiled once for all variables; after the context, latents are predicted."""

    @jax.jit
    def decode(variables, data, key):
        """The network's outputs in the units of the data, and the KL."""
        observed = jnp.broadcast_to(first_steps(CONTEXT), data.mask.shape)
        outputs, kl = WorldModel(num_states).apply(variables, data, observed, key)
        return in_units(outputs), kl

    @jax.jit
    def score(variables, state, data, key):
        """-ELBO and KL in nats per step, and the means of x."""
        likelihood = without_weights()
        outputs, kl = decode(variables, data, key)
        nll, _ = likelihood.nll({}, state, outputs, (data.x, data.mask), train=False)
        num_steps = jnp.sum(data.mask)
        return jnp.sum(nll + kl) / num_steps, jnp.sum(kl) / num_steps, likelihood.mean({}, state, outputs)

    return decode, score


class Scores(NamedTuple):
    """Of held-out sequences."""

    error: dict[str, float]  # of open-loop predictions, squared, relative to the variance; NaN if that is 0
    by_step: dict[str, np.ndarray]  # the same for each predicted step
    neg_elbo: float  # nats per step, of sequences whose first steps are observed
    kl: float  # nats per step, in the -ELBO
    frames: np.ndarray  # predicted frames, [N, T, 64, 64, 1] in [0, 1]


def evaluate(contender: Contender, variables: Any, data: Sequences, test: Sequences, num_samples: int = 8) -> Scores:
    """Predictions are means over samples of the latents; σ of each modality is computed on training sequences."""
    decode, score = decoding(contender.in_units, data.x["state"].shape[-1])
    key, *keys = jax.random.split(jax.random.key(0), num_samples + 1)
    parts = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 50], data) for i in range(0, len(data.mask), 50)]
    pairs = ((decode(variables, part, key)[0], (part.x, part.mask)) for part in parts)
    state = cx.calibrate(without_weights(), {}, pairs)
    neg_elbos, kls, means = zip(*(score(variables, state, test, key) for key in keys), strict=True)
    predicted = jax.tree.map(lambda *draws: sum(np.asarray(draw) for draw in draws) / num_samples, *means)
    errors = {name: relative_error(predicted[name], test.x[name], test.mask) for name in MODALITIES}
    return Scores(
        {name: error for name, (error, _) in errors.items()},
        {name: by_step for name, (_, by_step) in errors.items()},
        float(np.mean(neg_elbos)),
        float(np.mean(kls)),
        predicted["image"],
    )


def relative_error(predicted: np.ndarray, x: jax.Array, mask: jax.Array) -> tuple[float, np.ndarray]:
    """Squared error over variance after the context: in all, and of each step. Of a state, the mean over dimensions."""
    values = np.asarray(x, np.float64) / (255 if x.dtype == jnp.uint8 else 1)
    columns = values.shape[2] if values.ndim == 3 else 1  # the dimensions of a state
    values, predicted = (
        array.reshape(*mask.shape, -1, columns)[:, CONTEXT:] for array in (values, np.asarray(predicted, np.float64))
    )
    weight = np.asarray(mask)[:, CONTEXT:, None, None]
    variance = np.square(values - values.mean((0, 1), where=weight)).mean((0, 1), where=weight).mean(0)
    by_step = np.square(predicted - values).mean((0, 2), where=weight)
    overall = np.square(predicted - values).mean((0, 1, 2), where=weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative, by_step = (np.where(variance > 0, error / variance, np.nan) for error in (overall, by_step))
    return float(relative.mean()), by_step.mean(-1)


def compare(
    name: str, data: Sequences, test: Sequences, *, num_steps: int, num_seeds: int, shortest: int
) -> dict[str, list[Scores]]:
    """The scores of each contender, one per seed."""
    found: dict[str, list[Scores]] = {}
    for contender in contenders():
        fits = (train(contender, data, seed, num_steps, shortest) for seed in range(num_seeds))
        found[contender.name] = [evaluate(contender, variables, data, test) for variables in fits]
        print(f"{name}: {contender.name} done", file=sys.stderr)
    return found


# Table and figures


def mean_stderr(values: Sequence[float]) -> tuple[float, ...]:
    """The mean over seeds, and its standard error if there are several seeds."""
    spread = (float(np.std(values, ddof=1) / np.sqrt(len(values))),) if len(values) > 1 else ()
    return (float(np.mean(values)), *spread)


def table(results: dict[str, dict[str, list[Scores]]]) -> list[dict[str, Any]]:
    """One row per environment and loss, and one with the best number of the grid in each column."""
    rows = []
    for environment, found in results.items():
        of_environment = []
        for name, scores in found.items():
            row: dict[str, Any] = {"environment": environment.split("-")[0], "loss": name}
            for modality, heading in MODALITIES.items():
                row[heading] = mean_stderr([score.error[modality] for score in scores])
            row["-ELBO"] = mean_stderr([score.neg_elbo for score in scores])
            row["KL in it"] = mean_stderr([score.kl for score in scores])
            of_environment.append(row)
        best = dict(of_environment[0], loss="best of the weights, per column")
        for heading in (*MODALITIES.values(), "-ELBO"):
            best[heading] = min(row[heading] for row in of_environment if row["loss"].startswith("weights"))
        rows += [*of_environment, best | {"KL in it": ""}]
    return rows


def best_weights(found: dict[str, list[Scores]]) -> str:
    """The name of the weights with the lowest -ELBO."""
    return min((name for name in found if name.startswith("weights")), key=lambda name: found[name][0].neg_elbo)


def draw_frames(results: dict[str, dict[str, list[Scores]]], tests: dict[str, Sequences], path: str) -> None:
    """One held-out sequence of each environment, and what each loss predicts of it after the context."""
    from calibrax.evaluation.figures._style import figure_file

    rows, steps = {}, np.arange(CONTEXT - 1, LENGTH, 2)
    for environment, found in results.items():
        test = tests[environment]
        longest = int(np.argmax(np.asarray(test.mask).sum(1)))
        of = environment.split("-")[0]
        rows[f"{of}: frames of a held-out sequence; the first is observed, the others predicted"] = (
            np.asarray(test.x["image"][longest]) / 255
        )
        for name in ("joint, no weights", "squared errors, symlog", best_weights(found)):
            rows[f"{of}: {name}"] = found[name][0].frames[longest]
    with figure_file(path, 110 * len(steps), 130 * len(rows)) as figure:
        for axes, (title, frames) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
            spaced = np.pad(frames[steps, ..., 0], ((0, 0), (0, 0), (0, 3)), constant_values=0)
            axes.imshow(np.concatenate(spaced, axis=1)[:, :-3], cmap="gray", vmin=0, vmax=1)
            axes.set_title(title, fontsize=10, loc="left", pad=3)
            axes.axis("off")


def draw_horizon(results: dict[str, dict[str, list[Scores]]], path: str) -> None:
    """Relative error of open-loop predictions against the number of steps after the context."""
    from calibrax.evaluation.figures._style import COLORS, figure_file, legend_below, no_values, tidy

    horizon = np.arange(1, LENGTH - CONTEXT + 1)
    styles = {"joint, no weights": {"color": COLORS[0], "linewidth": 2.2, "zorder": 3}}
    styles["squared errors, symlog"] = {"color": COLORS[1], "linewidth": 1.6, "zorder": 2, "linestyle": "--"}
    with figure_file(path, 1200, 640) as figure:
        grid = figure.subplots(len(results), len(MODALITIES), squeeze=False)
        lines: dict[str, Any] = {}
        for of_environment, (environment, found) in zip(grid, results.items(), strict=True):
            for axes, (modality, heading) in zip(of_environment, MODALITIES.items(), strict=True):
                tidy(axes, "steps predicted", title=f"{environment.split('-')[0]}: {heading}")
                if not np.isfinite(found["joint, no weights"][0].error[modality]):
                    no_values(axes)
                    continue
                for name, scores in found.items():
                    style = styles.get(name, {"color": "0.65", "linewidth": 1})
                    curve = np.mean([score.by_step[modality] for score in scores], axis=0)
                    (line,) = axes.plot(horizon, curve, **style)
                    lines.setdefault(name if name in styles else "weights by hand, six of them", line)
                axes.set_ylim(bottom=0)
            of_environment[0].set_ylabel("squared error / variance", fontsize=11)
        legend_below(figure, [(line, name) for name, line in lines.items()])


def run(out: str, *, quick: bool, all_observed: bool, num_seeds: int = 1, argv: Sequence[str] = ()) -> None:
    from examples import _results

    started = time.monotonic()
    _results.check_installed("gymnasium", "pygame", "PIL")
    num_train, num_test, num_steps = (16, 4, 2) if quick else (400, 100, 2000)
    # pygame draws in one thread; training has a thread per environment, because one does not keep two cores busy.
    data = {name: (play(name, num_train, seed=0), play(name, num_test, seed=1)) for name in ENVIRONMENTS}
    settings = {"num_steps": num_steps, "num_seeds": num_seeds, "shortest": LENGTH if all_observed else 1}
    with ThreadPoolExecutor(len(data)) as pool:
        found = pool.map(lambda name: compare(name, *data[name], **settings), data)
        results = dict(zip(data, found, strict=True))
    draw_frames(results, {name: test for name, (_, test) in data.items()}, f"{out}/frames.png")
    draw_horizon(results, f"{out}/horizon.png")
    training = "all steps observed" if all_observed else "a random number of first steps observed"
    title = "World model: prediction error with and without weights" + (", trained as a filter" if all_observed else "")
    seeds = "one seed" if num_seeds == 1 else f"mean ± standard error over {num_seeds} seeds"
    remark = f"""\
{num_test} held-out sequences of {LENGTH} steps, of which the first {CONTEXT} are observed and {LENGTH - CONTEXT}
predicted. Frame, state, reward, flag (the episode continues): mean squared error of the predictions over the variance
of the modality; 1 is a constant prediction. -ELBO and KL: nats per step of the whole sequence, with the σ of each
modality computed on the training sequences for every loss; lower is better.

All losses train the same network on the same {num_train} sequences for {num_steps} steps with {training}; {seeds}.
Weights are those of the frame's squared error, and of the state's and the
reward's. The last row of each environment takes the best of the six in each column on its own. A dash is a flag that
never changes: Pendulum does not end."""
    forms = dict.fromkeys(MODALITIES.values(), ".3f") | {"-ELBO": ".0f", "KL in it": ".1f"}
    _results.write(
        out, title, remark, table(results), forms,
        module="examples.world_model", argv=argv, settings={"num_train": num_train, **settings}, packages=PACKAGES,
        started=started,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="world-model", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/world-model", help="the folder to write")
    parser.add_argument("--all-observed", action="store_true", help="train with all steps observed, not the first ones")
    parser.add_argument(
        "--seeds", type=int, default=1, help="seeds of initialisation and training, each a run per loss"
    )
    parser.add_argument("--quick", action="store_true", help="few sequences and steps, to see that it runs")
    argv = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(argv)
    if options.seeds < 1:
        return cli.fail(f"--seeds is {options.seeds}; expected at least 1")
    settings = {"quick": options.quick, "all_observed": options.all_observed, "num_seeds": options.seeds}
    return cli.guarded(lambda: run(options.out, **settings, argv=argv))


if __name__ == "__main__":
    sys.exit(main())
