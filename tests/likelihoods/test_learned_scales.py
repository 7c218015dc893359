"""Learned scales with axes and a start, and computed ones per time step: shapes, values and optima."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exact import single
from flax import linen as nn
from scipy import stats as sps

import calibrax as cx
from calibrax.training import create_train_state

RNG = np.random.default_rng(0)
B, EVENT = 7, (4, 5, 3)
AXES = {
    None: (),
    "pixel": (4, 5, 3),
    "channel": (3,),
    (0, 2, 3): (4,),
    (0, -1): (4, 5),
    0: (4, 5, 3),
}
DECODERS = {"log_sigma": (cx.shared_sigma, sps.norm), "log_scale": (cx.laplace, sps.laplace)}


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", DECODERS)
def test_a_scale_has_the_axes_that_do_not_share_one(name, axis):
    make, family = DECODERS[name]
    likelihood = make(axis, initial=0.25, link="identity")
    params, state = likelihood.init(EVENT)
    chex.assert_trees_all_equal((params, state), ({name: jnp.full(AXES[axis], np.log(0.25), jnp.float32)}, {}))
    mean, x = RNG.normal(size=(2, B, *EVENT))
    scale = np.exp(RNG.normal(size=AXES[axis]))
    whole = np.broadcast_to(scale.reshape({(4,): (4, 1, 1), (4, 5): (4, 5, 1)}.get(scale.shape, scale.shape)), EVENT)
    params = {name: single(np.log(scale))}
    nll, _ = likelihood.nll(params, state, single(mean), single(x))
    np.testing.assert_allclose(nll, -family.logpdf(x, mean, whole).sum((1, 2, 3)), rtol=1e-5)
    draws = likelihood.sample(jax.random.key(0), params, state, jnp.broadcast_to(single(mean[:1]), (4000, *EVENT)))
    np.testing.assert_allclose(draws.std(0), whole * family.std(), rtol=0.12)
    # The gradient is that of the scales: at the mean square, or the mean absolute error, it is 0.
    axes = {None: None, "pixel": 0, "channel": (0, 1, 2), (0, 2, 3): (0, 2, 3), (0, -1): (0, 3), 0: 0}[axis]
    best = np.sqrt(np.mean((x - mean) ** 2, axes)) if name == "log_sigma" else np.mean(np.abs(x - mean), axes)
    slope = jax.grad(lambda p: likelihood.nll(p, state, single(mean), single(x))[0].sum())({name: single(np.log(best))})
    np.testing.assert_allclose(slope[name], np.zeros(AXES[axis]), atol=1e-5 * x.size)


def test_the_scale_before_training_is_the_given_one():
    for make, name in ((cx.shared_sigma, "log_sigma"), (cx.laplace, "log_scale")):
        assert make().init(EVENT)[0] == {name: 0.0}
        np.testing.assert_allclose(make(initial=75.0).init(EVENT)[0][name], np.log(75.0), rtol=1e-6)


@pytest.mark.parametrize("make", [cx.shared_sigma, cx.laplace])
def test_single_numbers_and_steps_of_sequences(make):
    likelihood = make("channel", 0.5, link="identity")
    params, _ = likelihood.init(())
    assert jax.tree.leaves(params)[0].shape == (1,)
    nll, _ = likelihood.nll(params, {}, jnp.zeros(3), jnp.ones(3))
    assert nll.shape == (3,)
    steps = cx.batched(make("channel", 0.5, link="identity"))
    params, _ = steps.init((2,))
    nll, _ = steps.nll(params, {}, jnp.zeros((3, 4, 2)), jnp.ones((3, 4, 2)))
    assert nll.shape == (3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cx.shared_sigma("image"), "axis is 'image'; expected one that includes axis 0"),
        (lambda: cx.shared_sigma((1, 2)).init(EVENT), r"axis is \(1, 2\); expected one that includes axis 0"),
        (lambda: cx.shared_sigma("rows"), "axis is 'rows'; expected None, 'image'"),
        (lambda: cx.shared_sigma((0, 4)).init(EVENT), r"axis is \(0, 4\); expected axes of a rank-4 batch"),
        (lambda: cx.shared_sigma(initial=0), "initial is 0; expected a number in"),
        (lambda: cx.laplace(initial=-1.0), "initial is -1.0; expected a number in"),
        (lambda: cx.laplace(initial=float("inf")), "initial is inf; expected a number in"),
        (
            lambda: cx.laplace("channel").nll({"log_scale": jnp.zeros(())}, {}, jnp.zeros((2, 3)), jnp.zeros((2, 3))),
            r"log_scale has shape \(\); expected \(3,\)",
        ),
    ],
)
def test_mistakes_are_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        call()


@pytest.mark.parametrize("axis", [None, "channel", (0, 2, 3)], ids=str)
def test_a_start_from_a_batch_is_its_best_scale(axis):
    outputs, x = (single(75 * array) for array in RNG.normal(size=(2, B, *EVENT)))
    error, axes = np.float64(x) - np.float64(outputs), {None: None, "channel": (0, 1, 2), (0, 2, 3): (0, 2, 3)}[axis]
    for make, best in (
        (cx.shared_sigma, np.sqrt(np.mean(error**2, axes))),
        (cx.laplace, np.mean(np.abs(error), axes)),
    ):
        likelihood = make(axis, link="identity")
        params, _ = likelihood.init(EVENT)
        (log_scale,) = jax.tree.leaves(cx.start_from(likelihood, params, outputs, x))
        np.testing.assert_allclose(np.exp(log_scale), best, rtol=3e-6)


def test_a_start_of_combined_likelihoods_leaves_what_nobody_observes():
    likelihood = cx.joint(
        {
            "image": cx.optimal_sigma(),
            "state": cx.masked(cx.shared_sigma("channel", 3.0, link="identity")),
            "count": cx.negative_binomial(),
        }
    )
    event = {"image": (4, 3), "state": (5,), "count": (6,)}
    params, state = likelihood.init(event)
    outputs = {name: single(RNG.normal(size=(50, *shape))) for name, shape in event.items()}
    seen = jnp.ones((50, 5), bool).at[:, 2].set(False)
    counts = jnp.asarray(RNG.negative_binomial(2.0, 0.2, (50, 6)))
    x = {"image": jnp.zeros((50, 4, 3)), "state": (single(RNG.normal(size=(50, 5))), seen), "count": counts}
    started = cx.start_from(likelihood, params, outputs, x)
    assert jax.tree.structure(started) == jax.tree.structure(params)
    np.testing.assert_allclose(started["state"]["log_sigma"][2], np.log(3.0), rtol=1e-6)
    slope = jax.grad(lambda params: likelihood.nll(params, state, outputs, x)[0].sum())(started)
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, np.zeros(leaf.shape), atol=2e-3)
    assert cx.start_from(cx.gaussian(), {}, outputs["image"], x["image"]) == {}
    with pytest.raises(ValueError, match=r"^likelihood is a str; expected a Likelihood"):
        cx.start_from("shared-sigma", {}, outputs, x)


def test_a_state_of_training_starts_with_the_scale_of_its_first_batch():
    class Constant(nn.Module):
        @nn.compact
        def __call__(self, x, key, train=False):
            mean = self.param("mean", nn.initializers.constant(2.0), x.shape[1:])
            return jnp.broadcast_to(mean, x.shape), jnp.zeros((len(x), 1))

    x, likelihood = single(75 * RNG.normal(size=(64, 3))), cx.shared_sigma(link="identity")
    parts = {"model": Constant(), "likelihood": likelihood, "optimizer": optax.sgd(0.1)}
    state, plain = (
        create_train_state(jax.random.key(0), x, **parts, ema=True, start_scales=on) for on in (True, False)
    )
    best = np.sqrt(np.mean((np.float64(x) - 2) ** 2))
    np.testing.assert_allclose(np.exp(state.params["likelihood"]["log_sigma"]), best, rtol=1e-6)
    assert state.eval_params["likelihood"] == state.params["likelihood"]
    assert plain.params["likelihood"] == {"log_sigma": 0.0}
    chex.assert_trees_all_equal(state.params["model"], plain.params["model"])


# A computed scale per time step: `axis` names those axes of [B, T, H, W, C] that share one, all but 1.
T, FRAME, STEPS = 5, (3, 4, 2), (0, 2, 3, 4)
STEP_SCALES = np.array([0.1, 0.2, 0.5, 1.0, 3.0])


def videos(batch=6):
    mean = RNG.normal(size=(batch, T, *FRAME))
    return single(mean), single(mean + STEP_SCALES[:, None, None, None] * RNG.normal(size=mean.shape))


@pytest.mark.parametrize(("make", "average"), [(cx.optimal_sigma, "mse"), (cx.optimal_laplace, "mae")])
def test_one_scale_per_time_step_with_steps_that_nobody_observes(make, average):
    likelihood = cx.masked(make(STEPS, link="identity"))
    outputs, x = videos()
    seen = np.asarray(RNG.random((6, T)) > 0.3)
    seen[:, 3], seen[0] = False, [True, True, True, False, True]  # a step that nobody observes
    hidden = jnp.where(seen[:, :, None, None, None], x, jnp.nan)
    params, state = likelihood.init((T, *FRAME))
    assert state[average]["total"].shape == (T,)
    nll, stats = likelihood.nll(params, state, outputs, (hidden, seen))
    error = np.abs(np.float64(x) - np.float64(outputs)) ** (2 if average == "mse" else 1)
    expected = np.array([error[seen[:, t], t].mean() if seen[:, t].any() else 1.0 for t in range(T)])
    state = likelihood.update(state, stats)
    np.testing.assert_allclose(cx.running_average.value(state[average], initial=1.0), expected, rtol=1e-5)
    family = sps.norm(0, np.sqrt(expected)) if average == "mse" else sps.laplace(0, expected)
    each = -family.logpdf(np.moveaxis(np.float64(x) - np.float64(outputs), 1, -1))
    by_step = np.moveaxis(each, -1, 1).sum((2, 3, 4))
    np.testing.assert_allclose(nll, np.where(seen, by_step, 0).sum(1), rtol=1e-5)
    # At test time too; the step that nobody observed has the initial scale, 1.
    unmasked, _ = make(STEPS, link="identity").nll(params, state, outputs, x, train=False)
    np.testing.assert_allclose(unmasked, by_step.sum(1), rtol=1e-5)
    calibrated = cx.calibrate(likelihood, params, [(outputs, (hidden, seen))])
    np.testing.assert_allclose(cx.running_average.value(calibrated[average], initial=1.0), expected, rtol=1e-5)


def test_batched_sequences_share_a_scale_and_events_of_steps_do_not():
    outputs, x = videos()
    per_step, shared = cx.optimal_sigma(STEPS, link="identity"), cx.batched(cx.optimal_sigma(link="identity"))
    (_, stats), (nll, shared_stats) = (
        likelihood.nll(*likelihood.init(event), outputs, x)
        for likelihood, event in ((per_step, (T, *FRAME)), (shared, FRAME))
    )
    assert nll.shape == (6, T)
    np.testing.assert_allclose(np.exp(stats["log_sigma"]), STEP_SCALES, rtol=0.25)
    np.testing.assert_allclose(shared_stats["mse"], jnp.mean(stats["mse"]), rtol=1e-5)
    # Several sequences per example, [B, N, T, ...]: each example of the inner likelihood is one sequence.
    sequences = cx.batched(per_step)
    nll, inner = sequences.nll(
        *sequences.init((T, *FRAME)), outputs.reshape(2, 3, T, *FRAME), x.reshape(2, 3, T, *FRAME)
    )
    assert nll.shape == (2, 3)
    chex.assert_trees_all_close(inner, stats, rtol=1e-6)


def test_vectors_over_time_have_a_scale_per_horizon():
    likelihood = cx.optimal_sigma((0, 2), link="identity")
    outputs, x = jnp.zeros((6, T, 4)), single(STEP_SCALES[:, None] * RNG.normal(size=(6, T, 4)))
    _, stats = likelihood.nll(*likelihood.init((T, 4)), outputs, x)
    np.testing.assert_allclose(stats["mse"], np.mean(np.square(x), (0, 2)), rtol=1e-5)
