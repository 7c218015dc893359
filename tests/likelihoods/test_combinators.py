"""`joint`, `masked` and `tempered`: sums, masks and any nesting. The decoders' contract has what a mask does."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import DECODERS
from decoders import outputs_for as draw_outputs
from flax import nnx
from flax.traverse_util import flatten_dict
from jax import lax

import calibrax as cx
import calibrax.linen
import calibrax.nnx

B = 6
IMAGE, STATE = (4, 5, 3), (7,)
RNG = np.random.default_rng(0)
X = {
    "image": jnp.asarray(RNG.integers(0, 256, (B, *IMAGE)), jnp.uint8),
    "state": jnp.asarray(RNG.normal(size=(B, *STATE)), jnp.float32),
    "done": jnp.asarray(RNG.integers(0, 2, (B, 1)), jnp.float32),
}
PARTS = {"image": cx.optimal_sigma(), "state": cx.shared_sigma(link="identity"), "done": cx.bernoulli()}
SHAPES = {name: value.shape[1:] for name, value in X.items()}


def outputs_for(likelihood, shape):
    return draw_outputs(likelihood, shape, batch=B)


OUTPUTS = {name: outputs_for(PARTS[name], SHAPES[name]) for name in PARTS}


def test_joint_adds_up_its_parts():
    likelihood = cx.joint(PARTS)
    params, state = likelihood.init(SHAPES)
    assert params == {"image": {}, "state": {"log_sigma": jnp.zeros(())}, "done": {}}
    nll, stats = likelihood.nll(params, state, OUTPUTS, X)
    alone = {name: part.nll(params[name], state[name], OUTPUTS[name], X[name]) for name, part in PARTS.items()}
    np.testing.assert_allclose(nll, sum(pair[0] for pair in alone.values()), rtol=1e-6)
    assert set(stats) == {f"{name}/{stat}" for name, pair in alone.items() for stat in pair[1]}
    np.testing.assert_array_equal(stats["image/mse"], alone["image"][1]["mse"])
    state = likelihood.update(state, stats)
    chex.assert_trees_all_equal(state["image"], PARTS["image"].update(PARTS["image"].init(IMAGE)[1], alone["image"][1]))
    assert likelihood.output_channels({"image": 3, "state": 7, "done": 1}) == {"image": 3, "state": 7, "done": 1}
    for made in (likelihood.mean(params, state, OUTPUTS), likelihood.sample(jax.random.key(0), params, state, OUTPUTS)):
        assert {name: value.shape for name, value in made.items()} == {name: (B, *s) for name, s in SHAPES.items()}


def test_joint_has_a_discretized_nll_if_all_parts_have_one():
    both = cx.joint({"a": cx.gaussian(), "b": cx.categorical()})
    assert cx.joint(PARTS).discretized_nll is None
    outputs = {"a": outputs_for(PARTS["image"], IMAGE), "b": outputs_for(cx.categorical(), IMAGE)}
    x = {"a": X["image"], "b": X["image"]}
    expected = cx.gaussian().discretized_nll({}, {}, outputs["a"], x["a"])
    expected += cx.categorical().nll({}, {}, outputs["b"], x["b"])[0]
    np.testing.assert_allclose(
        both.discretized_nll(*both.init({"a": IMAGE, "b": IMAGE}), outputs, x), expected, rtol=1e-6
    )


MASK = jnp.asarray(RNG.random((B, *IMAGE)) > 0.4).at[2].set(False)


@pytest.mark.parametrize("name", ["pixel-sigma", "optimal-sigma", "categorical of 5 levels", "logistic-mixture"])
def test_a_mask_of_positions_hides_all_of_their_channels(name):
    decoder = DECODERS[name].likelihood
    likelihood, outputs, mask = cx.masked(decoder), outputs_for(decoder, IMAGE), MASK[..., :1]
    params, state = likelihood.init((IMAGE, IMAGE))
    chex.assert_trees_all_equal((params, state), decoder.init(IMAGE))
    hidden = jnp.where(mask, X["image"] / 255, jnp.nan)
    compiled = jax.jit(likelihood.nll)
    result = compiled(params, state, outputs, (hidden, mask))
    of_values = compiled(params, state, outputs, (hidden, jnp.broadcast_to(mask, (B, *IMAGE))))
    chex.assert_trees_all_close(result, of_values, rtol=1e-5)
    assert result[0][2] == 0  # nothing of it is observed


@pytest.mark.parametrize("axis", [None, "image", "pixel", "channel", (0, 2), (2, 3)])
@pytest.mark.parametrize("make", [cx.optimal_sigma, cx.optimal_laplace])
def test_masked_averages_are_means_over_observed_values(make, axis):
    """The average after one update is NumPy's mean over observed values; that of `calibrate` is over all batches."""
    likelihood = cx.masked(make(axis, link="identity"))
    name, size = ("mse", np.square) if make is cx.optimal_sigma else ("mae", np.abs)
    mean = RNG.uniform(size=(3, B, *IMAGE)).astype(np.float32)
    x = RNG.uniform(size=mean.shape).astype(np.float32)
    mask = RNG.random(mean.shape) > 0.5
    mask[:, :, 1, 2, 0] = False  # one value that nobody observes
    errors = np.where(mask, size(np.float64(x) - mean), np.nan)
    ranks = {
        None: (1, 2, 3, 4),
        "image": (1, 2, 3, 4),
        "pixel": (1,),
        "channel": (1, 2, 3),
        (0, 2): (1, 3),
        (2, 3): (1, 3, 4),
    }
    with warnings.catch_warnings(action="ignore"):  # NumPy's, of the value that nobody observes
        one_batch = np.nanmean(errors[0], tuple(i - 1 for i in ranks[axis]))
        all_batches = np.nanmean(errors, (0, *ranks[axis]))
    params, state = likelihood.init(IMAGE)
    _, stats = likelihood.nll(params, state, mean[0], (x[0], mask[0]))
    updated = likelihood.update(state, stats)
    chex.assert_trees_all_close(cx.running_average.value(updated[name], initial=np.nan), one_batch, rtol=1e-5)
    calibrated = cx.calibrate(likelihood, params, [(m, (a, b)) for m, a, b in zip(mean, x, mask, strict=True)])
    chex.assert_trees_all_close(cx.running_average.value(calibrated[name], initial=np.nan), all_batches, rtol=1e-5)


def test_masked_batches_on_several_devices_are_the_global_batch():
    for axis in (None, "image", "pixel", "channel"):
        likelihood = cx.masked(cx.optimal_sigma(axis))
        params, state = likelihood.init(IMAGE)
        outputs = outputs_for(cx.gaussian(), IMAGE)

        def part(outputs, x, mask, likelihood=likelihood, params=params, state=state):
            nll, stats = likelihood.nll(params, state, outputs, (x, mask), axis_name="i")
            return nll, likelihood.update(state, stats)

        split = jax.tree.map(lambda a: a.reshape(2, B // 2, *a.shape[1:]), (outputs, X["image"], MASK))
        nll, states = jax.jit(jax.vmap(part, axis_name="i"))(*split)
        expected, stats = jax.jit(likelihood.nll)(params, state, outputs, (X["image"], MASK))
        np.testing.assert_allclose(nll.reshape(B), expected, rtol=1e-5)
        for device in range(2):
            own = jax.tree.map(lambda leaf, i=device: leaf[i], states)
            chex.assert_trees_all_close(own, likelihood.update(state, stats), rtol=1e-5)


def test_tempered_multiplies_the_nll_alone():
    likelihood = cx.tempered(cx.optimal_sigma(), 0.25)
    args = (*likelihood.init(IMAGE), outputs_for(cx.gaussian(), IMAGE), X["image"])
    nll, stats = likelihood.nll(*args)
    expected, expected_stats = cx.optimal_sigma().nll(*args)
    np.testing.assert_allclose(nll, 0.25 * expected, rtol=1e-6)
    chex.assert_trees_all_equal(stats, expected_stats)
    scheduled = jax.jit(lambda weight: cx.tempered(cx.optimal_sigma(), weight).nll(*args)[0])(jnp.asarray(2.0))
    np.testing.assert_allclose(scheduled, 2 * expected, rtol=1e-5)


NESTED = cx.tempered(
    cx.joint(
        {
            "world": cx.masked(
                cx.joint({"image": cx.optimal_sigma(), "state": cx.tempered(cx.optimal_laplace(link="identity"), 2.0)})
            ),
            "done": cx.masked(cx.masked(cx.bernoulli())),
        }
    ),
    0.5,
)


def nested_arguments():
    world = {name: X[name] for name in ("image", "state")}
    seen = {"image": MASK, "state": jnp.asarray(RNG.random((B, *STATE)) > 0.5)}
    once, twice = jnp.ones((B, 1), bool).at[0].set(False), jnp.ones((B, 1), bool).at[1].set(False)
    outputs = {"world": {name: OUTPUTS[name] for name in world}, "done": OUTPUTS["done"]}
    params, state = NESTED.init({"world": {"image": IMAGE, "state": STATE}, "done": (1,)})
    return params, state, outputs, {"world": (world, seen), "done": ((X["done"], once), twice)}


def test_combinators_nest():
    params, state, outputs, x = nested_arguments()
    nll, stats = NESTED.nll(params, state, outputs, x)
    assert {"world/image/mse", "world/state/mae"} <= set(stats)
    seen = x["world"][1]
    image, _ = cx.masked(cx.optimal_sigma()).nll(
        {}, state["world"]["image"], outputs["world"]["image"], (X["image"], seen["image"])
    )
    state_nll, _ = cx.masked(cx.optimal_laplace(link="identity")).nll(
        {}, state["world"]["state"], outputs["world"]["state"], (X["state"], seen["state"])
    )
    done, _ = cx.bernoulli().nll({}, {}, outputs["done"], X["done"])
    done = done.at[:2].set(0.0)  # hidden by one mask or the other
    np.testing.assert_allclose(nll, 0.5 * (image + 2 * state_nll + done), rtol=1e-5)


def test_nested_likelihoods_pass_through_transformations():
    params, state, outputs, x = nested_arguments()
    plain = NESTED.nll(params, state, outputs, x)
    chex.assert_trees_all_close(jax.jit(NESTED.nll)(params, state, outputs, x), plain, rtol=1e-5)
    first = jax.tree.map(lambda leaf: leaf[None], (outputs, x))
    stacked = jax.jit(jax.vmap(NESTED.nll, (None, None, 0, 0)))(params, state, *first)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], stacked), plain, rtol=1e-5)

    def body(state, batch):
        nll, stats = NESTED.nll(params, state, *batch)
        return NESTED.update(state, stats), nll

    scanned, nll = lax.scan(body, state, first)
    chex.assert_trees_all_close(nll[0], plain[0], rtol=1e-5)
    chex.assert_trees_all_close(scanned, NESTED.update(state, plain[1]), rtol=1e-5)

    def on_device(outputs, x):
        nll, stats = NESTED.nll(params, state, outputs, x, axis_name="i")
        return nll, NESTED.update(state, stats)

    split = jax.tree.map(lambda leaf: leaf.reshape(2, B // 2, *leaf.shape[1:]), (outputs, x))
    nll, states = jax.pmap(on_device, axis_name="i", devices=jax.devices()[:2])(*split)
    np.testing.assert_allclose(np.asarray(nll).reshape(B), plain[0], rtol=1e-5)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], states), NESTED.update(state, plain[1]), rtol=1e-5)


def test_nested_likelihoods_in_linen_and_nnx():
    params, state, outputs, x = nested_arguments()
    nll, stats = NESTED.nll(params, state, outputs, x)
    module = calibrax.linen.Decode(NESTED)
    variables = module.init(jax.random.key(0), outputs, x, train=True)
    (of_linen, _), updated = module.apply(variables, outputs, x, train=True, mutable=["calibration"])
    np.testing.assert_allclose(of_linen, nll, rtol=1e-6)
    chex.assert_trees_all_close(updated["calibration"]["state"], NESTED.update(state, stats))
    twin = calibrax.nnx.Decode(NESTED, {"world": {"image": IMAGE, "state": STATE}, "done": (1,)})
    np.testing.assert_allclose(twin(outputs, x, train=True)[0], nll, rtol=1e-6)
    kept = nnx.to_pure_dict(nnx.state(twin, calibrax.nnx.Calibration))["state"]
    chex.assert_trees_all_close(flatten_dict(kept), flatten_dict(NESTED.update(state, stats)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: cx.joint({}), r"likelihoods has keys \[\]; expected at least one name"),
        (lambda: cx.joint({"a/b": cx.gaussian()}), r"likelihoods has keys \['a/b'\]; expected"),
        (lambda: cx.joint(PARTS).init({"image": IMAGE}), "event_shape has keys image; expected image, state, done"),
        (lambda: cx.joint(PARTS).init(IMAGE), "event_shape is a tuple; expected a dict with the keys image, state, "),
        (lambda: cx.joint({"a": cx.gaussian()}).nll({"a": {}}, {"a": {}}, {"a": jnp.zeros((2, 3))}, jnp.zeros((2, 3))),
         "x is a .*; expected a dict with the keys a"),
        (lambda: cx.joint({"a": cx.gaussian(), "b": cx.gaussian()}).nll(
            {"a": {}, "b": {}}, {"a": {}, "b": {}}, {"a": jnp.zeros((2, 3)), "b": jnp.zeros((3, 3))},
            {"a": jnp.zeros((2, 3)), "b": jnp.zeros((3, 3))}),
         r"x has batches \{'a': \(2,\), 'b': \(3,\)\}; expected the same number of examples in each"),
        (lambda: cx.masked(cx.gaussian()).nll({}, {}, jnp.zeros((2, 3)), jnp.zeros((2, 3))),
         r"x is .*; expected a pair \(x, mask\)"),
        (lambda: cx.masked(cx.gaussian()).nll({}, {}, jnp.zeros((2, 3)), (jnp.zeros((2, 3)), jnp.ones((2, 3)))),
         "mask has dtype float32; expected bool"),
        (lambda: cx.masked(cx.gaussian()).nll({}, {}, jnp.zeros((2, 3)), (jnp.zeros((2, 3)), jnp.ones(2, bool))),
         r"mask has shape \(2,\); expected one that broadcasts to \(2, 3\)"),
        (lambda: cx.tempered(cx.gaussian(), 0), r"weight is 0; expected a number in \(0, inf\)"),
        (lambda: cx.tempered(cx.gaussian(), float("nan")), "weight is nan; expected"),
        (lambda: cx.tempered(cx.gaussian(), jnp.ones(3)), r"weight has shape \(3,\); expected"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value)
