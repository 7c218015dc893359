"""The modules of `calibrax.linen` for Flax NNX, and an adapter for training an NNX model with `calibrax.training`."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
from flax import nnx

from calibrax.likelihoods import Likelihood, categorical, categorical_nll_from_features
from calibrax.likelihoods._base import check_likelihood
from calibrax.likelihoods._calibrate import average, sums_of_batch
from calibrax.likelihoods._categorical_head import MAX_CHUNK_LOGITS, check_channels, head_logits
from calibrax.likelihoods._checks import check_levels

if not hasattr(nnx, "data"):
    raise ImportError(f"calibrax.nnx needs Flax 0.12; this is {flax.__version__}, with which calibrax.linen works")


class Calibration(nnx.Variable):
    """An array of a likelihood's running average, as `nnx.BatchStat` is one of a batch norm's."""


class Decode(nnx.Module):
    """The last layer of a decoder: from outputs and data to a negative log-likelihood.

    What gradient descent trains is an `nnx.Param`. The running average is held in `Calibration` variables, which a call
    in training updates; `nnx.grad` and `nnx.Optimizer(..., wrt=nnx.Param)` do not see it. `model.eval()` means
    `train=False` and `model.train()` means `train=True`, as for `nnx.BatchNorm`.

    Args:
      likelihood: any `calibrax.Likelihood`.
      event_shape: shape of one example, `(H, W, C)` for images; nested if the likelihood's `init` takes nested shapes.
      train: whether calls are training, unless they say so themselves; None if each call says it.
      axis_name: the mapped axis over which the batch is spread, if any.

    Attributes:
      use_running_average: the opposite of `train`, or None.

    Raises:
      ValueError: at construction, if it is not a likelihood or there is no such shape.

    Example:
      >>> decode = Decode(cx.optimal_sigma(), (28, 28, 3))
      >>> nll, stats = decode(outputs, x, train=True)
    """

    def __init__(self, likelihood: Likelihood, event_shape, *, train: bool | None = None, axis_name: str | None = None):
        check_likelihood("likelihood", likelihood)
        params, state = likelihood.init(event_shape)
        self.likelihood = likelihood
        self.use_running_average = None if train is None else not train
        self.axis_name = axis_name
        self._calibrating = False
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        self.state = nnx.data(jax.tree.map(Calibration, state))

    def __call__(self, outputs, x, train: bool | None = None):
        """nll `[B]` in nats and stats, for outputs `[B, ..., output_channels(C)]` and x `[B, ..., C]`.

        `train` precedes the attribute; ValueError if neither is given.
        """
        if train is None:
            if self.use_running_average is None:
                raise ValueError("train is None; expected True or False, here or at construction, or model.train()")
            train = not self.use_running_average
        state = _values(self.state)
        nll, stats = self.likelihood.nll(_values(self.params), state, outputs, x, train=train, axis_name=self.axis_name)
        if self._calibrating:
            sums = sums_of_batch(self.likelihood, _values(self.params), outputs, x)
            updated = jax.tree.map(jnp.add, state, sums)
        elif train:
            updated = self.likelihood.update(state, stats)
        if self._calibrating or train:
            jax.tree.map(_set, self.state, updated, is_leaf=_is_variable)
        return nll, stats

    def mean(self, outputs):
        """E[x | outputs], `[B, ..., C]` in the data's range, with the running average."""
        return self.likelihood.mean(_values(self.params), _values(self.state), outputs)

    def sample(self, key, outputs):
        """A draw of x, `[B, ..., C]`, with the running average."""
        return self.likelihood.sample(key, _values(self.params), _values(self.state), outputs)

    def set_view(self, use_running_average: bool | None = None):
        """For `nnx.view(model, use_running_average=True)`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average


def calibrate(model: nnx.Module, batches: Iterable[Any], *, method: Callable[..., Any] | None = None, **kwargs: Any):
    """Recompute the averages of all `Decode` modules of a model in one pass, each example with equal weight.

    The model changes in place. Call `model.eval()` first, so that dropout is off and batch norms use their averages:
    every call of a `Decode` counts, whatever its `train` says. `calibrax.linen.calibrate` is the same for Linen.

    Args:
      model: with `Decode` modules anywhere inside.
      batches: the arguments of the model for each batch: one array or dict, or a tuple of positional arguments.
      method: `(model, *arguments)`, for example the loss; None for a call of the model.
      **kwargs: keyword arguments of the model or method.

    Raises:
      ValueError: if there are no batches, or no `Decode`.

    Example:
      >>> model.eval()
      >>> calibrax.nnx.calibrate(model, train_batches)
    """
    decodes = [module for _, module in nnx.iter_modules(model) if isinstance(module, Decode)]
    if not decodes:
        raise ValueError(f"model is a {type(model).__name__} without a Decode; expected one inside")

    @nnx.jit
    def one_batch(model, args):
        (model if method is None else functools.partial(method, model))(*args, **kwargs)

    def set_states(states):
        for decode, state in zip(decodes, states, strict=True):
            jax.tree.map(_set, decode.state, state, is_leaf=_is_variable)

    before = [_values(decode.state) for decode in decodes]
    zeros = jax.tree.map(jnp.zeros_like, before)

    def sums():
        for batch in batches:
            set_states(zeros)
            one_batch(model, batch if isinstance(batch, tuple) else (batch,))
            yield [_values(decode.state) for decode in decodes]

    found = None
    try:
        for decode in decodes:
            decode._calibrating = True
        found = average(sums(), "batches")
    finally:
        for decode in decodes:
            decode._calibrating = False
        set_states(before if found is None else found)
    if found is None:
        raise ValueError("batches is empty; expected at least one batch")


def _set(variable, value):
    variable.set_value(value)


class CategoricalHead(nnx.Module):
    """The last linear layer of a decoder fused with the soft-max over levels; `calibrax.linen.CategoricalHead` for NNX.

    The same as `nnx.Linear(in_features, channels * levels)` before `Decode(categorical(levels), ...)`, with the same
    parameters `kernel` and `bias`; but the logits of the batch, 3 GiB for one 1024×1024×3 image, never exist at once.

    Args:
      in_features: F, the channels of the features.
      channels: C, the channels of the data.
      levels: of each value, at least 2.
      max_chunk_logits: how many logits may exist at a time; None for the default of `categorical_nll_from_features`.
      rngs: the kernel is drawn from its stream `params`.

    Raises:
      ValueError: at construction, if a number is out of range.

    Example:
      >>> head = CategoricalHead(64, channels=3, rngs=nnx.Rngs(0))
      >>> nll, stats = head(features, x)
    """

    def __init__(
        self, in_features: int, channels: int, levels: int = 256, *, max_chunk_logits: int | None = None, rngs: nnx.Rngs
    ):
        check_levels("in_features", in_features, low=1)
        check_levels("channels", channels, low=1)
        check_levels("levels", levels)
        self.channels, self.levels, self.max_chunk_logits = channels, levels, max_chunk_logits
        size = channels * levels
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (in_features, size), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(size, jnp.float32))

    def __call__(self, features, x, *, mask=None):
        """nll `[B]` in nats and stats, for features `[B, ..., F]` and x `[B, ..., C]`."""
        check_channels(x, self.channels)
        chunk = MAX_CHUNK_LOGITS if self.max_chunk_logits is None else self.max_chunk_logits
        return categorical_nll_from_features(x, features, *self._parameters(), mask=mask, max_chunk_logits=chunk)

    def mean(self, features):
        """E[x | features], `[B, ..., C]` in [0, 1]; computes all logits of the batch at once."""
        return categorical(self.levels).mean({}, {}, head_logits(features, *self._parameters()))

    def sample(self, key, features):
        """A draw of levels, `[B, ..., C]` in [0, 1]; computes all logits of the batch at once."""
        return categorical(self.levels).sample(key, {}, {}, head_logits(features, *self._parameters()))

    def _parameters(self):
        return self.kernel.get_value(), self.bias.get_value()


@dataclasses.dataclass(frozen=True)
class Functional:
    """An NNX module as a `model` of `calibrax.training`: calls take its variables and return their new values.

    The module is called as `module(x, keys) -> (outputs, kl)`, in the mode of `module.train()` or of `module.eval()`.
    Its `nnx.Param`s are trained. Its other variables, such as the averages of `nnx.BatchNorm`, are kept in
    `TrainState.model_state`. The module itself never changes; `merge` makes one with trained values.

    The `nnx.Rngs` of the module, from which `nnx.Dropout` draws, are not part of the state: each call seeds them from
    its keys, so that a resumed run draws the same noise. Sharded arrays draw the noise of one device; under `pmap`
    and `shard_map` each device draws its own.

    Attributes:
      module: holds the initial values of all variables, for example those of a pretrained model.
      axis_name: the mapped axis over which the batch is spread, if any. Training sets it under `pmap` and `shard_map`.
        Layers that have such an attribute, such as `nnx.BatchNorm`, get this one.

    Example:
      >>> model = Functional(VAE(rngs=nnx.Rngs(0)))
      >>> parts = {"model": model, "likelihood": likelihood, "optimizer": optimizer}
      >>> stepper = sharded_step(**parts)
      >>> state = stepper.put_state(create_train_state(key, batch, **parts))
      >>> state, metrics = stepper.step(state, stepper.put_batch(batch), key)
      >>> vae = model.merge(variables_of(stepper.get_state(state).eval_params))
    """

    module: nnx.Module
    axis_name: str | None = None

    def init(self, key, x, keys, train: bool = True) -> dict[str, Any]:
        """The module's own values, {"params": ..., "state": ...}, as nested dicts of arrays; no argument is used."""
        del key, x, keys, train
        return _variables_of(self.module)

    def apply(
        self,
        variables: dict[str, Any],
        *args: Any,
        train: bool = False,
        mutable: Sequence[str] | Literal[False] = False,
        method: str | None = None,
    ) -> Any:
        """Call the module, or its method of that name, with these variables.

        Args:
          variables: as from `init`.
          *args: of the call, `(x, keys)`, or of the method, which must draw from keys among its arguments alone.
          train: whether the module is in training mode.
          mutable: the collections to return, or False.
          method: the name of a method; None to call the module.

        Returns:
          What the module returns; unless `mutable` is False, a pair of that and the new values of these collections.
        """
        module = self.merge(variables)
        if train:
            module.train()
        if self.axis_name is not None:
            module.set_attributes(axis_name=self.axis_name, raise_if_not_found=False)
        if method is None:
            _seed(module, args[1])
        result = (module if method is None else getattr(module, method))(*args)
        if mutable is False:
            return result
        new = _variables_of(module)
        return result, {name: new[name] for name in mutable}

    def clone(self, **changes: Any) -> "Functional":
        """A copy with another `axis_name`."""
        return dataclasses.replace(self, **changes)

    def merge(self, variables: dict[str, Any]) -> nnx.Module:
        """A new module with the values of `variables`, as from `init`, in evaluation mode."""
        graphdef, params, rngs, rest = nnx.split(self.module, nnx.Param, nnx.RngState, ...)
        nnx.replace_by_pure_dict(params, variables["params"])
        nnx.replace_by_pure_dict(rest, variables.get("state", {}))
        module = nnx.merge(graphdef, params, rngs, rest, copy=True)
        module.eval()
        return module


def _variables_of(module: nnx.Module) -> dict[str, Any]:
    _, params, _, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
    state = nnx.to_pure_dict(rest)
    return {"params": nnx.to_pure_dict(params)} | ({"state": state} if state else {})


def _seed(module: nnx.Module, keys: jax.Array) -> None:
    """Seed every stream of random numbers in the module, each differently, from the first key of the call."""
    streams, structure = jax.tree.flatten(nnx.state(module, nnx.RngKey))
    is_single = keys.ndim == (0 if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else 1)
    # Folded in twice, so that these are not the keys that the module gets by splitting the same key for its noise.
    key = jax.random.fold_in(keys if is_single else keys[0], len(streams))
    seeds = [jax.random.split(jax.random.fold_in(key, i), stream.shape) for i, stream in enumerate(streams)]
    nnx.update(module, jax.tree.unflatten(structure, seeds))


def _is_variable(node) -> bool:
    return isinstance(node, nnx.Variable)


def _values(variables):
    return jax.tree.map(lambda variable: variable.get_value(), variables, is_leaf=_is_variable)
