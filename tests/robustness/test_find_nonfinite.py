"""The tensor in which a step of a hierarchical model went wrong is found."""

import functools

import jax
import numpy as np
import optax
from toy import replaced

import calibrax as cx
from calibrax.models import HVAE, StageSpec
from calibrax.training import create_train_state, first_bad_tensor, train_step

KEY = jax.random.key(1)
STAGES = (StageSpec(4, 3, 2, 2, 3), StageSpec(4, 3, 2, 2, 3))


@functools.cache
def tiny_hvae():
    model = HVAE((8, 8, 3), 3, STAGES, num_blocks=1)
    setting = {"model": model, "likelihood": cx.optimal_sigma(), "optimizer": optax.sgd(1e-3)}
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    create = jax.jit(functools.partial(create_train_state, **setting))
    return setting, images, create(jax.random.key(0), images)


def test_a_step_that_is_finite_has_no_bad_tensor():
    setting, images, state = tiny_hvae()
    setting = {name: setting[name] for name in ("model", "likelihood")}
    assert first_bad_tensor(state, images, KEY, **setting) is None


def test_the_layer_that_goes_wrong_is_found_though_blocks_are_rematerialised():
    setting, images, state = tiny_hvae()
    # A direction of length 0 is finite, what the layer makes of it is not.
    params = replaced(state.params, ("model", "stage_1", "posterior_head", "parameters", "v"), 0.0)
    found = first_bad_tensor(
        state._replace(params=params), images, KEY, model=setting["model"].clone(remat=True),
        likelihood=setting["likelihood"],
    )  # fmt: skip
    assert found == "the output of stage_1/posterior_head/parameters"
    _, metrics = jax.jit(functools.partial(train_step, **setting))(state._replace(params=params), images, KEY)
    assert metrics["skipped"] == 1


def test_data_that_is_not_finite_is_found():
    setting, images, state = tiny_hvae()
    setting = {name: setting[name] for name in ("model", "likelihood")}
    unit = images.astype(np.float32) / 255
    unit[0, 0, 0, 0] = np.inf
    assert first_bad_tensor(state, unit, KEY, **setting) == "the data"
