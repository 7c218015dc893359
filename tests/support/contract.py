"""What must hold for every likelihood, as functions of a `Decoder`; `check_contract` calls them all."""

import copy
import pickle
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import EVENT, B, data, outputs_for, trained

import calibrax as cx

NARROW = (jnp.bfloat16, jnp.float16)


class Compiled:
    """One likelihood, its parameters, and its nll with gradients, compiled once with and once without a mask."""

    def __init__(self, decoder):
        self.decoder, self.likelihood = decoder, decoder.likelihood
        self.outputs, self.x = outputs_for(self.likelihood), data(levels=decoder.num_values)
        self.unit = decoder.floats(self.x)
        self.params, self.state = trained(self.likelihood, self.outputs, self.x)
        self.modes = (True, False) if jax.tree.leaves(self.state) else (True,)  # without a state `train` says nothing
        self.nll = jax.jit(self._all_modes)

    def _all_modes(self, params, state, outputs, x, mask=None):
        """For each mode ((nll, stats), gradients by params and outputs)."""

        def loss(params, outputs, train):
            options = {} if mask is None else {"mask": mask}
            nll, stats = self.likelihood.nll(params, state, outputs, x, train=train, **options)
            return jnp.sum(nll), (nll, stats)

        results = {}
        for train in self.modes:
            (_, result), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, outputs, train)
            results[train] = result, grads
        return results


def check_shapes_and_dtypes(run):
    """nll is [B] and float32 at least, for outputs of any dtype and events of any rank; stats are a flat dict."""
    likelihood = run.likelihood
    for event in (EVENT, (7,), (2, 5, 4, 3)) if has_any_rank(likelihood) else (EVENT,):
        params, state = likelihood.init(event)
        for dtype in (jnp.float32, *NARROW) if event == EVENT else (jnp.float32,):
            args = (
                params,
                state,
                outputs_for(likelihood, event, dtype=dtype),
                data(event, levels=run.decoder.num_values),
            )
            for train in (True, False):
                nll, stats = jax.eval_shape(lambda *args, train=train: likelihood.nll(*args, train=train), *args)
                assert (nll.shape, nll.dtype) == ((B,), jnp.float32)
                assert all(stat.dtype == jnp.float32 for stat in stats.values())
            assert jax.eval_shape(likelihood.sample, jax.random.key(0), *args[:3]).shape == (B, *event)
    with jax.enable_x64(True):
        args = run.params, run.state, np.float64(run.outputs), run.x
        assert jax.eval_shape(likelihood.nll, *args)[0].dtype == jnp.float64


def has_any_rank(likelihood):
    """Whether it takes a vector and a video too; some axes, and `framewise`, are those of images."""
    try:
        for event in ((7,), (2, 5, 4, 3)):
            jax.eval_shape(likelihood.nll, *likelihood.init(event), outputs_for(likelihood, event), data(event) > 127)
    except ValueError:
        return False
    return True


def check_uint8_and_float_mean_the_same(run):
    args = run.params, run.state, run.outputs
    chex.assert_trees_all_equal(run.likelihood.nll(*args, run.x), run.likelihood.nll(*args, run.unit))


def check_bools_are_zero_and_one(run):
    args, flags = (run.params, run.state, run.outputs), run.unit > 0.5
    nll, stats = run.likelihood.nll(*args, flags)
    expected = run.likelihood.nll(*args, flags.astype(jnp.float32))
    chex.assert_trees_all_equal((nll, stats), expected)


def check_other_integers_are_levels_or_an_error(run):
    """Levels of decoders over levels; counts; 0 and 1 of `bernoulli`; elsewhere nobody can tell their unit."""
    likelihood, args = run.likelihood, (run.params, run.state, run.outputs)
    for dtype in (jnp.int32, jnp.int16):
        if run.decoder.levels:
            of_labels = likelihood.nll(*args, run.x.astype(dtype))
            chex.assert_trees_all_equal(of_labels, likelihood.nll(*args, run.x))
            with pytest.raises(
                ValueError, match=f"^x has values from .* to .*; expected levels 0 to {run.decoder.levels - 1}"
            ):
                likelihood.nll(*args, run.x.astype(dtype) + 200)
        elif run.decoder.largest_count is not None:
            chex.assert_trees_all_equal(likelihood.nll(*args, run.x.astype(dtype)), likelihood.nll(*args, run.x))
        elif run.decoder.counts_integers:
            flags = run.unit > 0.5
            chex.assert_trees_all_equal(likelihood.nll(*args, flags.astype(dtype)), likelihood.nll(*args, flags))
        else:
            with pytest.raises(ValueError, match=r"^x has dtype int(32|16); expected [^\n]*x.astype\(jnp.float32\)$"):
                likelihood.nll(*args, run.x.astype(dtype))


def check_known_values_far_out_of_range_are_an_error(run):
    if run.decoder.levels or run.decoder.bounded:
        for far in (255 * run.unit, 2 * run.unit - 1):
            with pytest.raises(ValueError, match=r"^x has values from .* to .*; expected floats in \[0, 1\], or uint8"):
                run.likelihood.nll(run.params, run.state, run.outputs, far)
    if run.decoder.largest_count is not None:
        for none in (-1 - run.unit, run.unit + 0.5, -1 - run.x.astype(jnp.int32), run.unit.at[0].set(jnp.nan)):
            with pytest.raises(ValueError, match=r"^x has the value .*; expected counts, whole numbers from 0[^\n]*$"):
                run.likelihood.nll(run.params, run.state, run.outputs, none)


def check_an_event_of_one_number(run):
    """x is [B]; outputs are [B, output_channels(1)], or [B] if one value is emitted."""
    likelihood, outputs = run.likelihood, outputs_for(run.likelihood, (1,))
    try:
        likelihood.init(())
        jax.eval_shape(likelihood.nll, *likelihood.init((1,)), outputs, run.unit[:, 0, 0, :1])
    except ValueError:
        return  # axes of images
    params, state = likelihood.init(())
    chex.assert_trees_all_equal((params, state), likelihood.init((1,)))
    x = run.unit[:, 0, 0, 0]
    nll, stats = likelihood.nll(params, state, outputs, x)
    chex.assert_trees_all_equal((nll, stats), likelihood.nll(params, state, outputs, x[:, None]))
    state = likelihood.update(state, stats)
    seen = jnp.arange(B) != 1
    hidden, _ = likelihood.nll(params, state, outputs, x, train=False, mask=seen)
    test_nll, _ = likelihood.nll(params, state, outputs, x, train=False)
    np.testing.assert_allclose(hidden, jnp.where(seen, test_nll, 0), rtol=1e-6)
    if outputs.shape == (B, 1):
        chex.assert_trees_all_equal(likelihood.nll(params, state, outputs[:, 0], x, train=False)[0], test_nll)
        if has_mean(likelihood):
            mean = likelihood.mean(params, state, outputs)
            np.testing.assert_array_equal(likelihood.mean(params, state, outputs[:, 0]), mean[:, 0])
        assert likelihood.sample(jax.random.key(0), params, state, outputs[:, 0]).shape == (B,)


def check_steps_of_sequences(run):
    """`batched` has an nll per step, and shares the scale over all of them."""
    likelihood, steps = run.likelihood, cx.batched(run.likelihood)
    outputs, x = (array.reshape(2, B // 2, *array.shape[1:]) for array in (run.outputs, run.x))
    nll, stats = steps.nll(run.params, run.state, outputs, x)
    expected_nll, expected_stats = likelihood.nll(run.params, run.state, run.outputs, run.x)
    chex.assert_trees_all_close((nll.reshape(B), stats), (expected_nll, expected_stats), rtol=1e-6)
    assert nll.shape == (2, B // 2)
    seen = jnp.arange(B).reshape(2, B // 2) != 1
    hidden, _ = cx.masked(steps).nll(run.params, run.state, outputs, (x, seen), train=False)
    inside, _ = cx.batched(cx.masked(likelihood)).nll(run.params, run.state, outputs, (x, seen), train=False)
    test_nll, _ = steps.nll(run.params, run.state, outputs, x, train=False)
    for masked_nll in (hidden, inside):
        np.testing.assert_allclose(masked_nll, jnp.where(seen, test_nll, 0), rtol=1e-5)
    if has_mean(likelihood):
        assert steps.mean(run.params, run.state, outputs).shape == x.shape
    assert steps.sample(jax.random.key(0), run.params, run.state, outputs).shape == x.shape


def check_it_is_a_value(run):
    likelihood = run.likelihood
    for copied in (pickle.loads(pickle.dumps(likelihood)), copy.deepcopy(likelihood)):
        assert copied == likelihood
        assert hash(copied) == hash(likelihood)
    assert eval(repr(likelihood), vars(cx)) == likelihood
    other = likelihood._replace(update=lambda state, stats: state)
    assert other != likelihood


def check_narrow_outputs_cost_their_own_rounding_alone(run):
    narrow = run.outputs.astype(jnp.bfloat16)
    chex.assert_trees_all_close(
        run.likelihood.nll(run.params, run.state, narrow, run.x),
        run.likelihood.nll(run.params, run.state, narrow.astype(jnp.float32), run.x), rtol=1e-6, atol=1e-6,
    )  # fmt: skip


def check_values_and_gradients_are_finite(run):
    """At outputs of 0 and of +-10^4, at a perfect fit, and before the first update."""
    likelihood, floats = run.likelihood, run.unit
    initial = likelihood.init(EVENT)
    chex.assert_tree_all_finite(run.nll(*initial, run.outputs, floats))
    for scale in (0.0, 100.0, 1e4):
        outputs = scale * run.outputs
        fits = [floats, likelihood.mean(*initial, outputs)] if has_mean(likelihood) else [floats]
        for x in fits:
            params, state = likelihood.init(EVENT)
            for _ in range(2):  # the second time with a state that has seen this batch
                results = run.nll(params, state, outputs, x)
                chex.assert_tree_all_finite(results)
                state = likelihood.update(state, results[True][0][1])


def has_mean(likelihood):
    """Whether `mean` works; otherwise it must say in one line that there is none."""
    try:
        jax.eval_shape(likelihood.mean, *likelihood.init(EVENT), outputs_for(likelihood))
    except ValueError as error:
        message = str(error).split("\n-----")[0]  # JAX adds lines of its own
    else:
        return True
    assert re.fullmatch(r"the distribution of \w+ has no mean; expected [^\n]+", message), message
    return False


def check_jit_and_a_mapped_axis_agree_with_the_plain_call(run):
    likelihood, args = run.likelihood, (run.params, run.state, run.outputs, run.x)
    plain = likelihood.nll(*args)
    chex.assert_trees_all_close(run.nll(*args)[True][0], plain, rtol=1e-5)

    def on_device(outputs, x):
        nll, stats = likelihood.nll(run.params, run.state, outputs, x, axis_name="i")
        return nll, likelihood.update(run.state, stats)

    split = [array.reshape(2, B // 2, *array.shape[1:]) for array in (run.outputs, run.x)]
    nll, states = jax.jit(jax.vmap(on_device, axis_name="i"))(*split)
    np.testing.assert_allclose(nll.reshape(B), plain[0], rtol=1e-5)
    whole = likelihood.update(run.state, plain[1])
    for device in range(2):
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=device: leaf[i], states), whole, rtol=1e-5)


def check_what_is_hidden_never_matters(run):
    """Not in value and not in gradient; an example without anything observed has an nll of 0."""
    mask = jnp.asarray(np.random.default_rng(0).random((B, *EVENT)) > 0.4).at[2].set(False)
    unit = run.unit
    args = run.params, run.state, run.outputs
    of_nan = run.nll(*args, jnp.where(mask, unit, jnp.nan), mask)
    chex.assert_tree_all_finite(of_nan)
    chex.assert_trees_all_close(of_nan, run.nll(*args, jnp.where(mask, unit, 0.0), mask), rtol=1e-6)
    for (nll, _), (_, by_outputs) in of_nan.values():
        assert nll[2] == 0
        assert not by_outputs[2].any()
    ones, plain = run.nll(*args, unit, jnp.ones_like(mask)), run.nll(*args, unit)
    for train, ((expected, expected_stats), expected_grads) in plain.items():
        (nll, stats), grads = ones[train]
        np.testing.assert_allclose(nll, expected, rtol=1e-5)
        chex.assert_trees_all_close({name: stats[name] for name in expected_stats}, expected_stats, rtol=1e-5)
        chex.assert_trees_all_close(grads, expected_grads, rtol=1e-4, atol=1e-5)


def check_masked_values_are_those_of_the_observed_alone(run):
    """With the last row of every image hidden, an image is one of fewer rows."""
    likelihood, mask = run.likelihood, jnp.ones((B, *EVENT), bool).at[:, -1].set(False)
    (nll, _), _ = run.nll(*likelihood.init(EVENT), run.outputs, run.unit, mask)[True]
    shorter = likelihood.init((EVENT[0] - 1, *EVENT[1:]))
    expected, _ = jax.jit(likelihood.nll)(*shorter, run.outputs[:, :-1], run.x[:, :-1])
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


def check_samples_have_the_moments_of_the_distribution(run, num=2_000):
    likelihood, event = run.likelihood, (2, 1, 3)
    outputs = outputs_for(likelihood, event)
    params, state = jax.jit(lambda outputs: trained(likelihood, outputs, data(event, levels=run.decoder.num_values)))(
        outputs
    )

    @jax.jit
    def draw(params, state, outputs):
        many = jnp.broadcast_to(outputs, (num, *outputs.shape[1:]))
        draws = likelihood.sample(jax.random.key(2), params, state, many)
        return draws, likelihood.nll(params, state, many, draws, train=False)

    draws, (nll, _) = draw(params, state, outputs[:1])
    draws = np.float64(draws)
    assert draws.shape == (num, *event)
    if run.decoder.draws_in_unit_range:
        assert draws.min() >= 0
        assert draws.max() <= 1
    if has_mean(likelihood):
        mean = np.asarray(jax.jit(likelihood.mean)(params, state, outputs[:1]))[0]
        apart = run.decoder.difference(draws, mean)
        assert np.max(np.abs(apart.mean(0)) * np.sqrt(num) / apart.std(0)) < 5
    if likelihood.marginal.is_normal and run.decoder.is_density:
        # The mean nll of the draws is the entropy of a Gaussian of their variance.
        entropy = np.sum(0.5 * np.log(2 * np.pi * np.e * draws.var(0)))
        assert abs(np.mean(np.float64(nll)) - entropy) < 0.1


def check_probabilities_of_levels_sum_to_one(run):
    likelihood, (levels, discretized) = run.likelihood, (run.decoder.levels, run.likelihood.discretized_nll)
    if levels is None and discretized is None:
        return
    num, event = levels or 256, (1, 1, 1)
    x = np.arange(num, dtype=np.uint8) if num == 256 else np.float32(np.arange(num) / (num - 1))
    x = jnp.asarray(x.reshape(num, *event))
    outputs = jnp.linspace(-1.0, 0.3, likelihood.output_channels(1))
    outputs = jnp.broadcast_to(outputs, (num, 1, 1, outputs.size))

    @jax.jit
    def log_probs(outputs, x):
        params, state = trained(likelihood, outputs, x)
        of_levels = [] if levels is None else [-likelihood.nll(params, state, outputs, x)[0]]
        return of_levels + ([] if discretized is None else [-discretized(params, state, outputs, x)])

    for log_prob in log_probs(outputs, x):
        np.testing.assert_allclose(jax.nn.logsumexp(log_prob), 0, atol=1e-5)


def check_mistakes_are_one_line(run):
    likelihood, x = run.likelihood, run.x
    for bad in (x[:1], x[..., :1], x.reshape(B, -1), x[0], x.astype(jnp.complex64)):
        with pytest.raises(ValueError, match=r"^x has (shape|dtype) .*; expected [^\n]*$"):
            likelihood.nll(run.params, run.state, run.outputs, bad)
    for shape in [(3, 0), (-1, 2), "abc", 5]:
        with pytest.raises(ValueError, match=r"^event_shape is [^\n]*$"):
            likelihood.init(shape)
    with pytest.raises(ValueError, match="channels is 0; expected an integer from 1"):
        likelihood.output_channels(0)


def check_a_joint_of_two_adds_up(run):
    args = run.params, run.state, run.outputs, run.x
    joint = cx.joint({"a": run.likelihood, "b": run.likelihood})
    total, _ = joint.nll(*({"a": tree, "b": tree} for tree in args))
    np.testing.assert_allclose(total, 2 * run.likelihood.nll(*args)[0], rtol=1e-6)


CHECKS = [check for name, check in globals().items() if name.startswith("check_")]


def check_contract(decoder):
    """Every check of this module."""
    run = Compiled(decoder)
    for check in CHECKS:
        check(run)
