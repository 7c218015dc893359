"""Likelihoods as Flax Linen modules: any likelihood, and a categorical one fused with the linear layer before it."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.likelihoods import Likelihood, categorical, categorical_nll_from_features
from calibrax.likelihoods._base import check_likelihood
from calibrax.likelihoods._calibrate import average, sums_of_batch
from calibrax.likelihoods._categorical_head import MAX_CHUNK_LOGITS, check_channels, check_features, head_logits
from calibrax.likelihoods._checks import check_levels


class Decode(nn.Module):
    """The last layer of a decoder: from outputs and data to a negative log-likelihood.

    What gradient descent trains (a shared σ) is in the collection `params`, the running average in the mutable
    collection `calibration`. Apply with `mutable=["calibration"]` in training; `init` does not count as an update.

    Attributes:
      likelihood: any `calibrax.Likelihood`.
      train: whether calls are training; None if each call says it.
      axis_name: the mapped axis over which the batch is spread, if any.

    Raises:
      ValueError: at construction, if it is not a likelihood.

    Example:
      >>> nll, stats = Decode(cx.optimal_sigma())(outputs, x, train=True)  # inside a compact __call__
    """

    likelihood: Likelihood
    train: bool | None = None
    axis_name: str | None = None

    def __post_init__(self):
        check_likelihood("likelihood", self.likelihood)
        super().__post_init__()

    @nn.compact
    def __call__(self, outputs, x, train: bool | None = None):
        """nll `[B]` in nats and stats, for outputs `[B, ..., output_channels(C)]` and x `[B, ..., C]`.

        `train` is given here or as the attribute, not both.
        """
        train = nn.merge_param("train", self.train, train)
        # Entries without arrays are not stored: tools that flatten variables, such as `flatten_dict`, drop them.
        event_shape = jax.tree.map(lambda leaf: jnp.shape(leaf)[self.likelihood.batch_ndim :], x)
        initial_params, initial_state = self.likelihood.init(event_shape)
        for name, value in initial_params.items():
            if jax.tree.leaves(value):
                self.param(name, lambda _, value=value: value)
        if jax.tree.leaves(initial_state):
            self.variable("calibration", "state", lambda: initial_state)
        params, state = self._stored()
        axis_name = None if self.is_initializing() else self.axis_name
        nll, stats = self.likelihood.nll(params, state, outputs, x, train=train, axis_name=axis_name)
        if train and not self.is_initializing() and jax.tree.leaves(state):
            self.put_variable("calibration", "state", self.likelihood.update(state, stats))
        return nll, stats

    def mean(self, outputs):
        """E[x | outputs], `[B, ..., C]` in the data's range, with the running average."""
        return self.likelihood.mean(*self._stored(), outputs)

    def sample(self, key, outputs):
        """A draw of x, `[B, ..., C]`, with the running average."""
        return self.likelihood.sample(key, *self._stored(), outputs)

    def _stored(self):
        """The params and state that the module's variables hold."""
        return dict(self.variables.get("params", {})), self.get_variable("calibration", "state", {})


def calibrate(
    module: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    rngs: Mapping[str, jax.Array] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """The variables with the averages of all `Decode` modules recomputed in one pass, each example with equal weight.

    The running average of training mixes batches from before and after the fit improved; `calibrax.calibrate` does the
    same for a likelihood alone. Run the module as at test time, for example with `train=False`, so that dropout is off
    and batch norms use their averages: every call of a `Decode` counts, whatever its `train` says.

    Args:
      module: with `Decode` modules anywhere inside.
      variables: as from `module.init` or a train state, with the collection `calibration`.
      batches: the arguments of the module for each batch: one array or dict, or a tuple of positional arguments.
      rngs: keys for `module.apply`; batch i uses them with i folded in.
      **kwargs: more for `module.apply`: keyword arguments of the module, or `method`.

    Returns:
      A dict of all variables, of which only `calibration` differs.

    Raises:
      ValueError: if there are no batches, or no collection `calibration`.

    Example:
      >>> variables = calibrax.linen.calibrate(vae, variables, train_batches, rngs={"latent": key}, train=False)
    """
    if "calibration" not in variables:
        held = ", ".join(variables) or "no collections"
        raise ValueError(f"variables has {held}; expected calibration, the averages of a module with a Decode inside")
    empty = {**variables, "calibration": jax.tree.map(jnp.zeros_like, variables["calibration"])}

    @jax.jit
    def one_batch(variables, rngs, args):
        with nn.intercept_methods(_add_sums):
            _, updated = module.apply(variables, *args, rngs=rngs, mutable=["calibration"], **kwargs)
        return updated["calibration"]

    def sums():
        for i, batch in enumerate(batches):
            keys = {name: jax.random.fold_in(key, i) for name, key in (rngs or {}).items()}
            yield one_batch(empty, keys, batch if isinstance(batch, tuple) else (batch,))

    calibration = average(sums(), "batches")
    if calibration is None:
        raise ValueError("batches is empty; expected at least one batch")
    return {**variables, "calibration": calibration}


def _add_sums(call, args, kwargs, context):
    """Call a method; where it is that of a `Decode`, its state becomes the sums over the batches that it has seen."""
    decode = context.module
    if not (isinstance(decode, Decode) and context.method_name == "__call__"):
        return call(*args, **kwargs)
    before = jax.tree.map(jnp.asarray, decode.get_variable("calibration", "state", {}))  # Flax changes it in place
    result = call(*args, **kwargs)
    if jax.tree.leaves(before):
        given = inspect.signature(Decode.__call__).bind(decode, *args, **kwargs).arguments
        params, _ = decode._stored()
        sums = sums_of_batch(decode.likelihood, params, given["outputs"], given["x"])
        decode.put_variable("calibration", "state", jax.tree.map(jnp.add, before, sums))
    return result


class CategoricalHead(nn.Module):
    """The last linear layer of a decoder fused with the soft-max over levels, for images at high resolution.

    The same as `Dense(channels * levels)` before `Decode(categorical(levels))`, with the same parameters `kernel` and
    `bias`; but the logits of the batch, 3 GiB for one 1024×1024×3 image, never exist at once.

    Attributes:
      channels: C, the channels of the data.
      levels: of each value, at least 2.
      max_chunk_logits: how many logits may exist at a time; None for the default of `categorical_nll_from_features`.

    Raises:
      ValueError: at construction, if a number is out of range.

    Example:
      >>> nll, stats = CategoricalHead(channels=3)(features, x)  # inside a compact __call__

    References:
      The "Categorical VAE" of Tables 2 and 5, which the paper sets aside for its memory.
    """

    channels: int
    levels: int = 256
    max_chunk_logits: int | None = None

    def __post_init__(self):
        check_levels("channels", self.channels, low=1)
        check_levels("levels", self.levels)
        super().__post_init__()

    @nn.compact
    def __call__(self, features, x, *, mask=None):
        """nll `[B]` in nats and stats, for features `[B, ..., F]` and x `[B, ..., C]`."""
        check_channels(x, self.channels)
        chunk = MAX_CHUNK_LOGITS if self.max_chunk_logits is None else self.max_chunk_logits
        return categorical_nll_from_features(
            x, features, *self._parameters(features), mask=mask, max_chunk_logits=chunk
        )

    @nn.compact
    def mean(self, features):
        """E[x | features], `[B, ..., C]` in [0, 1]; computes all logits of the batch at once."""
        return categorical(self.levels).mean({}, {}, head_logits(features, *self._parameters(features)))

    @nn.compact
    def sample(self, key, features):
        """A draw of levels, `[B, ..., C]` in [0, 1]; computes all logits of the batch at once."""
        return categorical(self.levels).sample(key, {}, {}, head_logits(features, *self._parameters(features)))

    def _parameters(self, features):
        check_features(features)
        size = self.channels * self.levels
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (features.shape[-1], size), jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros, (size,), jnp.float32)
