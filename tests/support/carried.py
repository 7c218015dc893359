"""What tools that save and copy do to a likelihood, its params and its state; afterwards every nll is the same."""

import contextlib
import copy
import pickle

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from decoders import DECODERS, data, outputs_for
from flax import nnx

import calibrax as cx
import calibrax.linen
import calibrax.nnx

B, EVENT = 5, (4, 3, 2)
JOINT = cx.joint(
    {
        "image": cx.optimal_sigma("channel"),
        "state": cx.shared_sigma(link="identity"),
        "rest": cx.joint({"done": cx.bernoulli()}),
    }
)
NAMES = [*DECODERS, "joint"]


class Case:
    """A likelihood with trained params and state, data, and the nll at test time."""

    def __init__(self, name):
        if name == "joint":
            self.likelihood = JOINT
            outputs, x = outputs_for(cx.gaussian(), EVENT, batch=B), data(EVENT, batch=B)
            self.outputs = {"image": outputs, "state": outputs, "rest": {"done": outputs}}
            self.x = {"image": x, "state": x, "rest": {"done": x}}
        else:
            decoder = DECODERS[name]
            self.likelihood = decoder.likelihood
            self.outputs = outputs_for(self.likelihood, EVENT, batch=B)
            self.x = data(EVENT, batch=B, levels=decoder.num_values)
        self.event = jax.tree.map(lambda leaf: leaf.shape[1:], self.x)
        params, state = self.likelihood.init(self.event)
        self.params = jax.tree.map(lambda leaf: leaf - 0.7, params)
        self.state = self.likelihood.update(state, self.likelihood.nll(params, state, self.outputs, self.x)[1])
        self.nll = self.score(self.likelihood, self.params, self.state)

    def score(self, likelihood, params, state):
        return likelihood.nll(params, state, self.outputs, self.x, train=False)[0]


def flattened_and_back(tree):
    return flax.traverse_util.unflatten_dict(flax.traverse_util.flatten_dict(tree))


TOOLS = {
    "pickle": lambda tree: pickle.loads(pickle.dumps(tree)),
    "deepcopy": copy.deepcopy,
    "msgpack": lambda tree: flax.serialization.msgpack_restore(flax.serialization.to_bytes(tree)),
    "flax": lambda tree: flax.serialization.from_bytes(
        jax.tree.map(jnp.zeros_like, tree), flax.serialization.to_bytes(tree)
    ),
    "flatten_dict": flattened_and_back,
}  # each carries a dict of arrays


def check_dicts_of_arrays_survive(case, tmp_path):
    carried = {tool: (carry(case.params), carry(case.state)) for tool, carry in TOOLS.items()}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", {"params": case.params, "state": case.state, "step": np.zeros(())})
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "saved")  # without a target
    carried["orbax"] = restored.get("params", {}), restored.get("state", {})
    _, stats = case.likelihood.nll(case.params, case.state, case.outputs, case.x)
    for tool, (params, state) in carried.items():
        np.testing.assert_array_equal(case.score(case.likelihood, params, state), case.nll, err_msg=tool)
        updated = case.likelihood.update(state, stats)
        assert jax.tree.structure(updated) == jax.tree.structure(state)  # so that `lax.scan` takes it as a carry


def check_likelihoods_survive(case, tmp_path):
    copies = [pickle.loads(pickle.dumps(case.likelihood)), copy.deepcopy(case.likelihood)]
    with contextlib.suppress(ImportError):
        import cloudpickle

        copies.append(cloudpickle.loads(cloudpickle.dumps(case.likelihood)))
    for copied in copies:
        assert copied == case.likelihood
        assert hash(copied) == hash(case.likelihood)
        np.testing.assert_array_equal(case.score(copied, case.params, case.state), case.nll)


def check_pure_dicts_of_nnx_survive(case, tmp_path):
    module = calibrax.nnx.Decode(case.likelihood, case.event)
    module(case.outputs, case.x, train=True)
    expected, _ = module(case.outputs, case.x, train=False)
    graph, state = nnx.split(calibrax.nnx.Decode(case.likelihood, case.event))
    nnx.replace_by_pure_dict(state, nnx.to_pure_dict(nnx.state(module)))
    restored = nnx.merge(graph, state)
    np.testing.assert_array_equal(restored(case.outputs, case.x, train=False)[0], expected)


def check_flattened_variables_of_linen_survive(case, tmp_path):
    module = calibrax.linen.Decode(case.likelihood)
    variables = module.init(jax.random.key(0), case.outputs, case.x, train=True)
    _, updated = module.apply(variables, case.outputs, case.x, train=True, mutable=["calibration"])
    variables = {**variables, **updated}
    expected, _ = module.apply(variables, case.outputs, case.x, train=False)
    restored = flattened_and_back(variables)
    np.testing.assert_array_equal(module.apply(restored, case.outputs, case.x, train=False)[0], expected)
    _, again = module.apply(restored, case.outputs, case.x, train=True, mutable=["calibration"])
    assert jax.tree.structure(dict(again)) == jax.tree.structure({name: restored[name] for name in again})


CHECKS = [check for name, check in globals().items() if name.startswith("check_")]
