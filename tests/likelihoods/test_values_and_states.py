"""Likelihoods as values, and states as dicts of arrays: what other people's tools do with them changes no nll."""

import pickle
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carried import CHECKS, Case
from flax import linen as nn
from flax import nnx
from jax import lax

import calibrax as cx
import calibrax.linen
import calibrax.nnx

SOME = ["optimal-sigma-per-pixel", "shared-sigma", "categorical", "framewise of frames", "joint"]  # all: robustness


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", SOME)
def test_whatever_tools_do_no_nll_changes(name, check, tmp_path):
    check(Case(name), tmp_path)


@pytest.mark.parametrize("name", ["optimal-sigma", "optimal-sigma-per-pixel", "shared-sigma", "joint"])
def test_equinox_partitions_and_saves_them(name, tmp_path):
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed: pip install '.[examples]'")
    case = Case(name)
    tree = {"likelihood": case.likelihood, "params": case.params, "state": case.state}
    arrays, static = eqx.partition(tree, eqx.is_array)
    assert jax.tree.leaves(arrays) == jax.tree.leaves((case.params, case.state))
    eqx.tree_serialise_leaves(tmp_path / "saved.eqx", arrays)
    restored = eqx.tree_deserialise_leaves(tmp_path / "saved.eqx", jax.tree.map(jnp.zeros_like, arrays))
    whole = eqx.combine(restored, static)
    np.testing.assert_array_equal(case.score(whole["likelihood"], whole["params"], whole["state"]), case.nll)


# Values


CALLS = [
    lambda: cx.gaussian(0.5),
    lambda: cx.optimal_sigma(axis=[0, 2], decay=0.9),
    lambda: cx.joint({"a": cx.optimal_sigma(), "b": cx.masked(cx.bernoulli())}),
    lambda: cx.tempered(cx.batched(cx.student_t(3.0, link="identity"), 3), 0.5),
    lambda: cx.framewise(cx.logistic_mixture(3, levels=8)),
]


@pytest.mark.parametrize("make", CALLS)
def test_equal_calls_are_equal_and_print_as_the_call(make):
    one, other = make(), make()
    assert one == other
    assert not (one != other)  # noqa: SIM202 - `!=` has a method of its own
    assert len({one, other}) == 1
    assert eval(repr(one), vars(cx)) == one


def test_what_differs_is_not_equal():
    different = [
        cx.gaussian(), cx.gaussian(2.0), cx.gaussian(link="identity"), cx.laplace(), cx.optimal_sigma(),
        cx.tempered(cx.gaussian(), 2.0), cx.masked(cx.gaussian()), cx.batched(cx.gaussian()),
        cx.batched(cx.gaussian(), 3), cx.joint({"a": cx.gaussian()}), cx.joint({"b": cx.gaussian()}),
        cx.gaussian()._replace(mean=lambda params, state, outputs: outputs),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert cx.gaussian() != (1, 2)


def test_defaults_and_ways_to_pass_an_argument_make_no_difference():
    assert cx.optimal_sigma(None, 0.99) == cx.optimal_sigma() == cx.optimal_sigma(link="sigmoid")
    assert cx.optimal_sigma(axis=(0, 1)) == cx.optimal_sigma(axis=[0, 1])
    assert cx.gaussian(np.float32(0.5)) == cx.gaussian(0.5)
    assert repr(cx.gaussian(np.float64(0.5))) == "gaussian(0.5)"
    assert repr(cx.optimal_sigma(decay=0.9)) == "optimal_sigma(decay=0.9)"


def test_a_weight_that_is_an_array_makes_a_likelihood_equal_to_itself_alone():
    one, other = (cx.tempered(cx.gaussian(), jnp.float32(0.5)) for _ in range(2))
    assert one == one
    assert one != other
    assert hash(one) != hash(other)
    nll = one.nll({}, {}, jnp.zeros((2, 3)), jnp.zeros((2, 3)))[0]
    restored = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(restored.nll({}, {}, jnp.zeros((2, 3)), jnp.zeros((2, 3)))[0], nll)


def test_a_dict_that_changes_afterwards_changes_no_likelihood():
    parts = {"a": cx.gaussian()}
    likelihood = cx.joint(parts)
    parts["b"] = cx.laplace()
    assert pickle.loads(pickle.dumps(likelihood)) == likelihood == cx.joint({"a": cx.gaussian()})


def test_modules_made_anew_compile_once():
    x = jnp.ones((2, 3))
    traced = []

    @nnx.jit
    def of_nnx(module, x):
        traced.append("nnx")
        return module(x, x, train=True)[0]

    def of_linen(module, variables, x):
        traced.append("linen")
        return module.apply(variables, x, x, train=False)[0]

    compiled = jax.jit(of_linen, static_argnums=0)
    for _ in range(4):
        of_nnx(calibrax.nnx.Decode(cx.optimal_sigma(), (3,)), x)
        module = calibrax.linen.Decode(cx.optimal_sigma())
        compiled(module, module.init(jax.random.key(0), x, x, train=True), x)
    assert sorted(traced) == ["linen", "nnx"]


# Dtypes of arguments


@pytest.mark.parametrize("scalar", [np.float64, np.float32])
def test_numpy_scalars_change_no_dtype_under_x64(scalar, x64):
    likelihood = cx.optimal_sigma(decay=scalar(0.9), min_log_sigma=scalar(-5))
    x, outputs = jnp.ones((2, 3), jnp.float32), jnp.zeros((2, 3), jnp.float32)

    def step(state, _):
        nll, stats = likelihood.nll({}, state, outputs, x)
        return likelihood.update(state, stats), nll

    state, nll = lax.scan(step, likelihood.init((3,))[1], None, length=3)
    assert nll.dtype == state["mse"]["total"].dtype == jnp.float32
    average = cx.running_average.update(cx.running_average.init(), 0.5, decay=scalar(0.9))
    assert average["total"].dtype == jnp.float32


def test_numpy_scalars_in_every_constructor():
    half, two = np.float32(0.5), np.int64(2)
    made = [
        cx.gaussian(half), cx.beta_gaussian(half), cx.optimal_sigma(decay=half), cx.optimal_sigma(axis=two),
        cx.pixel_sigma(-half, two), cx.student_t(two), cx.categorical(two), cx.bitwise_categorical(two),
        cx.logistic_mixture(two, levels=two), cx.discretized_gaussian(two), cx.discretized_logistic(two),
        cx.optimal_laplace(decay=half), cx.tempered(cx.gaussian(), half), cx.batched(cx.gaussian(), two),
    ]  # fmt: skip
    for likelihood in made:
        assert "np." not in repr(likelihood)
        assert pickle.loads(pickle.dumps(likelihood)) == likelihood


# `train` in Flax


def test_train_is_an_attribute_or_any_kind_of_argument_of_linen():
    x = jnp.ones((2, 3))
    variables = calibrax.linen.Decode(cx.optimal_sigma()).init(jax.random.key(0), x, x, True)
    expected, _ = calibrax.linen.Decode(cx.optimal_sigma()).apply(variables, x, x, train=False)
    np.testing.assert_array_equal(calibrax.linen.Decode(cx.optimal_sigma()).apply(variables, x, x, False)[0], expected)
    module = calibrax.linen.Decode(cx.optimal_sigma(), train=False)
    np.testing.assert_array_equal(module.apply(variables, x, x)[0], expected)
    with pytest.raises(ValueError, match="train"):
        module.apply(variables, x, x, train=True)
    with pytest.raises(ValueError, match="train"):
        calibrax.linen.Decode(cx.optimal_sigma()).apply(variables, x, x)


def test_linen_decode_under_remat_and_vmap():
    x = jnp.linspace(0, 1, 24).reshape(4, 2, 3)

    class Model(nn.Module):
        lifted: bool

        @nn.compact
        def __call__(self, outputs, x, train):
            if not self.lifted:
                return calibrax.linen.Decode(cx.optimal_sigma())(outputs, x, train)[0]
            decode = nn.vmap(
                nn.remat(calibrax.linen.Decode, static_argnums=(3,)), variable_axes={"calibration": 0},
                split_rngs={"params": False}, in_axes=(0, 0, None),
            )  # fmt: skip
            return decode(cx.optimal_sigma())(outputs, x, train)[0]

    lifted, plain = Model(True), Model(False)
    variables = lifted.init(jax.random.key(0), 0 * x, x, True)
    nll, _ = lifted.apply(variables, 0 * x, x, True, mutable=["calibration"])
    for index in range(4):
        single = plain.init(jax.random.key(0), 0 * x[0], x[0], True)
        expected, _ = plain.apply(single, 0 * x[index], x[index], True, mutable=["calibration"])
        np.testing.assert_allclose(nll[index], expected, rtol=1e-6)


def test_nnx_modes_reach_decode():
    class Model(nnx.Module):
        def __init__(self):
            self.decode = calibrax.nnx.Decode(cx.optimal_sigma(), (3,))

        def __call__(self, x):
            return self.decode(jnp.zeros_like(x), x)[0]

    x, model = jnp.linspace(0, 1, 6).reshape(2, 3), Model()
    with pytest.raises(ValueError, match="train is None; expected True or False"):
        model(x)
    model.train()
    trained_nll = model(x)
    before = nnx.to_pure_dict(nnx.state(model))
    model.eval()
    evaluated = model(3 * x)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(model)), before)  # no update
    likelihood = cx.optimal_sigma()
    state = likelihood.init((3,))[1]
    nll, stats = likelihood.nll({}, state, jnp.zeros_like(x), x)
    np.testing.assert_allclose(trained_nll, nll, rtol=1e-6)
    state = likelihood.update(state, stats)
    np.testing.assert_allclose(evaluated, likelihood.nll({}, state, 0 * x, 3 * x, train=False)[0], rtol=1e-6)
    np.testing.assert_array_equal(model.decode(0 * x, x, train=False)[0], model(x))  # an argument goes first
    assert calibrax.nnx.Decode(likelihood, (3,), train=True)(0 * x, x)[0].shape == (2,)


@pytest.mark.parametrize("name", ["optimal-sigma-per-pixel", "shared-sigma", "categorical", "joint"])
def test_decode_gives_means_and_samples(name):
    case, key = Case(name), jax.random.key(3)
    params, state = case.likelihood.init(case.event)
    mean = case.likelihood.mean(params, state, case.outputs)
    drawn = case.likelihood.sample(key, params, state, case.outputs)
    module = calibrax.linen.Decode(case.likelihood)
    variables = module.init(jax.random.key(0), case.outputs, case.x, train=True)
    linen_mean = module.apply(variables, case.outputs, method="mean")
    linen_drawn = module.apply(variables, key, case.outputs, method="sample")
    chex.assert_trees_all_equal((linen_mean, linen_drawn), (mean, drawn))
    twin = calibrax.nnx.Decode(case.likelihood, case.event)
    chex.assert_trees_all_equal((twin.mean(case.outputs), twin.sample(key, case.outputs)), (mean, drawn))


# What a state of another kind is told


def test_a_state_that_is_none_names_itself():
    likelihood, x = cx.optimal_sigma(), jnp.zeros((2, 3))
    old = types.SimpleNamespace(total=jnp.ones(()), weight=jnp.ones(()))
    for state in ({"mse": old}, {"mse": {"total": jnp.ones(())}}, {"mse": jnp.ones(())}):
        with pytest.raises(ValueError, match=r"^state has 'mse': [^\n]+; expected {'mse': a dict of 'total'"):
            likelihood.nll({}, state, x, x, train=False)
