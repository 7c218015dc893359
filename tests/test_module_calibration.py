"""`calibrate` of models with `Decode` inside, in Linen and NNX: the exact average, whatever else the model does."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import calibrax as cx
import calibrax.linen
import calibrax.nnx

X = jax.random.normal(jax.random.key(0), (11, 4))
BATCHES = [X[:4], X[4:8], X[8:]]  # of different sizes
PIXEL = cx.optimal_sigma("channel", link="identity")
JOINT = cx.joint({"a": cx.optimal_sigma(link="identity"), "b": cx.shared_sigma(link="identity")})


class Linen(nn.Module):
    """Two decoders, dropout and a batch norm: a model that differs between training and test."""

    @nn.compact
    def __call__(self, x, train):
        h = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(4)(x))
        h = nn.Dropout(0.5, deterministic=not train)(h)
        nll, _ = calibrax.linen.Decode(PIXEL)(h, x, train=train)
        both, _ = Both(name="both")(h, x, train)
        return nll + both

    def outputs(self, variables, x):
        def keep(call, args, kwargs, context):
            return (
                h.append(args[0]) or call(*args, **kwargs)
                if isinstance(context.module, Both)
                else call(*args, **kwargs)
            )

        h = []
        with nn.intercept_methods(keep):
            self.apply(variables, x, train=False)
        return h[0]


class Both(nn.Module):
    @nn.compact
    def __call__(self, h, x, train):
        return calibrax.linen.Decode(JOINT, train=train)(outputs={"a": h, "b": h}, x={"a": x, "b": x})


def trained_linen():
    model = Linen()
    variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X, train=True)
    for i in range(3):
        keys = {"dropout": jax.random.key(i)}
        _, updated = model.apply(variables, X, train=True, rngs=keys, mutable=["calibration", "batch_stats"])
        variables = {**variables, **updated}
    return model, variables


def test_linen_gives_the_average_of_test_time():
    """That of `calibrax.calibrate` on the outputs of test time: batch norm's running averages, no dropout."""
    model, variables = trained_linen()
    found = calibrax.linen.calibrate(model, variables, BATCHES, train=False)
    chex.assert_trees_all_equal({**found, "calibration": 0}, {**variables, "calibration": 0})
    outputs = model.outputs(variables, X)
    pairs = [(outputs, X)]
    expected = cx.calibrate(PIXEL, {}, pairs)
    chex.assert_trees_all_close(found["calibration"]["Decode_0"]["state"], expected, rtol=1e-5)
    mse = np.mean(np.square(np.float64(outputs) - X), 0)
    np.testing.assert_allclose(found["calibration"]["Decode_0"]["state"]["mse"]["total"], mse, rtol=1e-5)
    expected = cx.calibrate(
        JOINT, variables["params"]["both"]["Decode_0"], [({"a": outputs, "b": outputs}, {"a": X, "b": X})]
    )
    chex.assert_trees_all_close(found["calibration"]["both"]["Decode_0"]["state"]["a"], expected["a"], rtol=1e-5)
    chex.assert_trees_all_equal(*(jax.tree.map(jnp.shape, tree["calibration"]) for tree in (found, variables)))
    before, after = (model.apply(v, X, train=False) for v in (variables, found))
    assert np.mean(after) < np.mean(before)


def test_linen_takes_pairs_keys_and_methods():
    class Noisy(nn.Module):
        def setup(self):
            self.decode = calibrax.linen.Decode(cx.optimal_sigma(link="identity"))

        def __call__(self, outputs, x):
            return self.score(outputs, x)

        def score(self, outputs, x):
            return self.decode(outputs + jax.random.normal(self.make_rng("latent"), x.shape), x, True)[0]

    model, zeros = Noisy(), jnp.zeros((5000, 1))
    variables = model.init({"params": jax.random.key(0), "latent": jax.random.key(1)}, zeros, zeros)
    found = calibrax.linen.calibrate(
        model, variables, [(zeros, zeros)] * 4, rngs={"latent": jax.random.key(2)}, method="score"
    )
    total = found["calibration"]["decode"]["state"]["mse"]["total"]
    np.testing.assert_allclose(total, 1, atol=4 * np.sqrt(2 / 20_000))  # of 20,000 draws that are not the same 5,000


def test_linen_adds_up_the_calls_of_one_decode():
    class Twice(nn.Module):
        def setup(self):
            self.decode = calibrax.linen.Decode(cx.optimal_sigma(link="identity"), train=True)

        def __call__(self, x):
            return self.decode(jnp.zeros_like(x), x)[0] + self.decode(jnp.zeros_like(x), 3 * x)[0]

    variables = Twice().init(jax.random.key(0), X)
    found = calibrax.linen.calibrate(Twice(), variables, BATCHES)
    total = found["calibration"]["decode"]["state"]["mse"]["total"]
    np.testing.assert_allclose(total, np.mean(np.square(np.float64(X))) * 5, rtol=1e-5)


def test_linen_mistakes_are_one_line():
    model, variables = trained_linen()
    with pytest.raises(ValueError, match=r"^batches is empty; expected at least one batch$"):
        calibrax.linen.calibrate(model, variables, [], train=False)
    with pytest.raises(ValueError, match=r"^variables has params; expected calibration, the averages of a module"):
        calibrax.linen.calibrate(model, {"params": variables["params"]}, BATCHES, train=False)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.decode = calibrax.nnx.Decode(PIXEL, (4,), train=True)
        self.both = calibrax.nnx.Decode(JOINT, {"a": (4,), "b": (4,)}, train=True)

    def outputs(self, x):
        return self.dropout(self.norm(self.dense(x)))

    def __call__(self, x):
        h = self.outputs(x)
        return self.decode(h, x)[0] + self.both({"a": h, "b": h}, {"a": x, "b": x})[0]


def averages(model):
    return nnx.to_pure_dict(nnx.state(model, calibrax.nnx.Calibration))


def test_nnx_gives_the_average_of_test_time():
    model = Nnx(nnx.Rngs(0))
    for _ in range(3):
        model(X)
    model.eval()
    before, others = np.mean(model(X)), nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    calibrax.nnx.calibrate(model, BATCHES)
    outputs = model.outputs(X)
    chex.assert_trees_all_close(averages(model)["decode"]["state"], cx.calibrate(PIXEL, {}, [(outputs, X)]), rtol=1e-5)
    mse = np.mean(np.square(np.float64(outputs) - X))
    np.testing.assert_allclose(averages(model)["both"]["state"]["a"]["mse"]["total"], mse, rtol=1e-5)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat))), others)
    assert np.mean(model(X)) < before
    exact = averages(model)
    model(X)  # not training: nothing changes
    chex.assert_trees_all_equal(averages(model), exact)
    model.train()
    model(X)
    assert np.any(averages(model)["decode"]["state"]["mse"]["total"] != exact["decode"]["state"]["mse"]["total"])


def test_nnx_takes_a_loss():
    model = Nnx(nnx.Rngs(0))
    model.eval()
    calibrax.nnx.calibrate(model, [(X[:3], 2.0), (X[3:], 2.0)], method=lambda model, x, scale: model(scale * x))
    mse = np.mean(np.square(np.float64(model.outputs(2 * X)) - 2 * X))
    np.testing.assert_allclose(averages(model)["both"]["state"]["a"]["mse"]["total"], mse, rtol=1e-5)


def test_nnx_mistakes_are_one_line_and_lose_nothing():
    with pytest.raises(ValueError, match=r"^model is a Linear without a Decode; expected one inside$"):
        calibrax.nnx.calibrate(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), BATCHES)
    model = Nnx(nnx.Rngs(0))
    model(X)
    before = averages(model)
    with pytest.raises(ValueError, match=r"^batches is empty; expected at least one batch$"):
        calibrax.nnx.calibrate(model, [])
    with pytest.raises(ZeroDivisionError):
        calibrax.nnx.calibrate(model, (1 / (1 - i) * X for i in range(3)))
    chex.assert_trees_all_equal(averages(model), before)
    model(X)
    assert not np.array_equal(
        averages(model)["decode"]["state"]["mse"]["total"], before["decode"]["state"]["mse"]["total"]
    )
