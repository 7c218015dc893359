"""Samples and traversals of the layers of a hierarchical VAE, and the figures of its layers."""

import functools
import itertools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import figure_of
from PIL import Image

import calibrax as cx
from calibrax.evaluation import Trained, evaluate_likelihood, reconstruct
from calibrax.evaluation.figures import hierarchy as hierarchy_figure
from calibrax.evaluation.metrics import hierarchy
from calibrax.evaluation.metrics.hierarchy import partial_samples, traversal
from calibrax.models import ConvVAE
from calibrax.models.hvae import HVAE, StageSpec, noise
from calibrax.models.hvae import model as hvae_model

STAGES = (StageSpec(4, 3, 2, 3, 4), StageSpec(4, 3, 1, 2, 3), StageSpec(5, 3, 2, 4, None))
KEY = jax.random.key(5)


# Half the time: what is compiled here runs once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def images(num=3):
    return np.random.default_rng(2).integers(0, 256, (num, 8, 8, 1), dtype=np.uint8)


@functools.cache
def trained(skip=True):
    """Two latent maps under a vector, or one without skips; the gains large, so that every connection shows."""
    likelihood = cx.optimal_sigma()
    stages = STAGES if skip else STAGES[1:]
    model = HVAE((8, 8, 1), likelihood.output_channels(1), stages, skip=skip, num_blocks=1, log_var="tanh")
    init = quick_jit(model.init)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 1.4 * jnp.ones_like(leaf) if path[-1].key == "g" else leaf,
        init(KEY, images(), KEY)["params"],
    )
    likelihood_params, state = likelihood.init((8, 8, 1))
    return Trained(model, likelihood, {"model": params, "likelihood": likelihood_params}, state)


def without_layers():
    likelihood = cx.optimal_sigma()
    return Trained(ConvVAE((8, 8, 1), likelihood.output_channels(1), latent_dim=2), likelihood, {}, {})


def means(outputs):
    return trained().likelihood.mean(trained().params["likelihood"], trained().likelihood_state, outputs)


def apply(*args, **options):
    """The model, the options static."""
    run = quick_jit(lambda params, *args: trained().model.apply({"params": params}, *args, **options))
    return run(trained().params["model"], *args)


@functools.cache
def samples(side, skip=True):
    return partial_samples(trained(skip), images(), side=side, key=KEY)


def differ(one, other):
    return np.abs(one - other).reshape(len(one), -1).max(1) > 1e-3


@pytest.mark.parametrize("side", ["top", "bottom"])
def test_the_first_row_is_a_reconstruction_and_the_last_a_sample(side):
    rows = samples(side)
    assert rows.shape == (4, 3, 8, 8, 1)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[0], reconstruct(trained(), images(), key=KEY), atol=1e-5)
    generated = apply(KEY, method="generate", num=3)
    np.testing.assert_allclose(rows[3], means(generated), atol=1e-5)
    for above, below in itertools.pairwise(rows):
        assert differ(above, below).all()


def test_the_rows_between_equal_a_generative_path_without_the_resampled_latents():
    """The two sides have no row between in common."""
    z = [latent.z for latent in apply(images(), KEY, method="inference_path")]
    for side, k, kept in (("top", 1, [*z[:2], None]), ("bottom", 2, [None, None, z[2]])):
        outputs, _ = apply(kept, KEY, method="generative_path")
        np.testing.assert_allclose(samples(side)[k], means(outputs), atol=1e-5)
    assert differ(samples("top")[1], samples("bottom")[1]).all()


def test_without_skips_the_upper_layers_do_not_matter_given_the_lowest():
    rows = samples("top", skip=False)
    np.testing.assert_array_equal(rows[1], rows[0])
    assert differ(rows[2], rows[0]).all()
    assert differ(samples("bottom", skip=False)[1], rows[0]).all()


def test_temperature_0_leaves_only_the_posterior_s_noise():
    cold, cold_again = (
        partial_samples(trained(), images(), side="bottom", key=jax.random.key(seed), temperature=0.0)
        for seed in (0, 1)
    )
    np.testing.assert_allclose(cold[3], np.broadcast_to(cold[3][:1], cold[3].shape), atol=1e-5)
    np.testing.assert_allclose(cold_again[3], cold[3], atol=1e-5)
    assert differ(cold_again[2], cold[2]).all()


def test_all_rows_sides_temperatures_and_layers_share_one_program(monkeypatch):
    purposes = []

    def counted(keys, purpose, shapes):
        purposes.append(purpose)
        return noise.layer_noise(keys, purpose, shapes)

    monkeypatch.setattr(hvae_model, "layer_noise", counted)
    for function in (hierarchy._infer_function, hierarchy._decode_function):
        function.cache_clear()
    for side, temperature in (("top", 1.0), ("bottom", 0.5)):
        partial_samples(trained(), images(), side=side, key=KEY, temperature=temperature)
    for layer in (1, 2, 3):
        traversal(trained(), images(), layer=layer, key=KEY, steps=3, dimensions=2)
    assert purposes == [noise.POSTERIOR, noise.PRIOR]  # one trace each


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_traversal_moves_one_dimension_of_one_layer(layer):
    moved = traversal(trained(), images(), layer=layer, key=KEY, steps=3, dimensions=2)
    assert moved.images.shape == (2, 3, 8, 8, 1)
    assert moved.layer == layer
    np.testing.assert_array_equal(moved.offsets, [-3, 0, 3])
    # Offset 0: that layer and those above as inferred, those below the means of their priors.
    unmoved = partial_samples(trained(), images(), side="bottom", key=KEY, temperature=0.0)[layer - 1, 0]
    np.testing.assert_allclose(moved.images[:, 1], np.stack([unmoved, unmoved]), atol=1e-5)

    latents = apply(images(), KEY, method="inference_path")
    z = [None if below < layer - 1 else latent.z[:1] for below, latent in enumerate(latents)]
    std, first = jnp.exp(latents[layer - 1].log_var[:1] / 2), moved.dimensions[0]
    z[layer - 1] = z[layer - 1].at[..., first].add(3 * std[..., first])
    outputs, _ = apply(z, KEY, 0.0, method="generative_path")
    np.testing.assert_allclose(moved.images[0, 2], means(outputs)[0], atol=1e-5)
    assert differ(moved.images[0], moved.images[0][[1, 2, 0]]).all()


def test_the_most_active_dimensions_come_first():
    mean = np.zeros((4, 2, 2, 3), np.float32)
    mean[..., 0] = np.array([0, 1, 2, 3]).reshape(4, 1, 1)
    mean[..., 2] = np.array([0, 2, 4, 6]).reshape(4, 1, 1)
    log_var = np.zeros_like(mean)
    latent = hierarchy.Latent(mean, mean, mean, log_var)
    assert hierarchy._most_active(latent, 2) == (2, 0)
    log_var[..., 2] = math.log(100)  # four times the variance in the mean, a hundred times in the noise
    assert hierarchy._most_active(latent, 9) == (0, 2, 1)
    chosen = traversal(trained(), images(), layer=3, key=KEY, steps=3, dimensions=2).dimensions
    assert len(set(chosen)) == 2


def test_the_layers_kls_sum_to_the_rate():
    evaluation = evaluate_likelihood(trained(), images(5), key=KEY, batch_size=3)
    assert len(evaluation.layer_kls) == 3
    np.testing.assert_allclose(sum(evaluation.layer_kls), evaluation.rate, rtol=1e-4)


def sample(**options):
    partial_samples(trained(), **{"images": images(), "side": "top", "key": KEY, **options})


def move(**options):
    traversal(trained(), **{"images": images(), "layer": 1, "key": KEY, **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample(side="left"), "side is 'left'; expected 'top' or 'bottom'"),
        (lambda: sample(temperature=-1.0), "temperature is -1.0; expected a number from 0"),
        (lambda: sample(images=images()[:0]), "images holds 0 examples; expected at least 1"),
        (lambda: move(layer=0), "layer is 0; expected 1, the bottom, to 3"),
        (lambda: move(layer=4), "layer is 4; expected 1, the bottom, to 3"),
        (lambda: move(steps=1), "steps is 1; expected 2 or more"),
        (lambda: move(images=images(1)), "images holds 1 examples; expected at least 2"),
        (lambda: move(dimensions=0), "dimensions is 0; expected 1 or more"),
        *(
            (functools.partial(call, without_layers(), images(), key=KEY), "model is a ConvVAE, which has no layers")
            for call in (
                functools.partial(partial_samples, side="top"),
                functools.partial(traversal, layer=1),
            )
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        call()


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(("layers", "columns", "size"), [(15, 8, 32), (6, 12, 28), (1, 1, 8)])
def test_every_sample_stands_in_its_row_pixel_by_pixel(tmp_path, layers, columns, size):
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (columns, size, size, 3), dtype=np.uint8)
    rows = rng.random((layers + 1, columns, size, size, 3), dtype=np.float32)
    save = functools.partial(hierarchy_figure.save_partial_samples, side="bottom")
    save(tmp_path / "new" / "p.png", rows, originals, title="a long title, " * 12)
    assert os.listdir(tmp_path / "new") == ["p.png"]
    picture = pixels(tmp_path / "new" / "p.png")
    assert 300 < picture.shape[0] < 1600
    assert 400 < picture.shape[1] < 1300
    scale = max(1, min(900 // (columns * (size + 3)), 1400 // ((layers + 2) * (size + 3))))
    below, right = 10, max(picture.shape[1] - 10, 0)
    cell = size * scale + 3
    left = next(x for x in range(right) if matches(picture, x, len(picture) - below - cell, rows[-1, 0], scale))
    for row, expected in enumerate([originals, *rows]):
        top = len(picture) - below - (layers + 2 - row) * cell
        for column, image in enumerate(expected):
            assert matches(picture, left + column * cell, top, image, scale), (row, column)


def matches(picture, left, top, image, scale):
    expected = np.round(255 * image) if image.dtype != np.uint8 else image
    shown = picture[top : top + scale * len(image), left : left + scale * len(image)]
    expected = expected.repeat(scale, 0).repeat(scale, 1)
    return shown.shape == expected.shape and np.abs(shown.astype(int) - expected).max() <= 1


def test_the_figure_of_a_traversal(tmp_path):
    moved = traversal(trained(), images(), layer=2, key=KEY, steps=3, dimensions=2)
    hierarchy_figure.save_traversal(tmp_path / "t.png", moved, title="layer 2 of 3")
    assert os.listdir(tmp_path) == ["t.png"]
    assert pixels(tmp_path / "t.png").std() > 10


def kl_rows(layers, evaluations=3, scale=1.0):
    values = {f"kl/{layer}": scale * 300.0 / layer**2 for layer in range(1, layers + 1)}
    train = [{"step": step, "split": "train", **values} for step in range(1, 50)]
    return train + [{"step": 10 * n, "split": "test", **values} for n in range(1, evaluations + 1)]


def kl_axes(rows, free_bits=None):
    return figure_of(hierarchy_figure.save_layer_kls, rows, free_bits=free_bits).axes


@pytest.mark.parametrize(("layers", "evaluations"), [(15, 3), (6, 1), (3, 0), (1, 2), (40, 1)])
def test_the_layers_kls_are_drawn(tmp_path, layers, evaluations):
    rows = kl_rows(layers, evaluations)
    hierarchy_figure.save_layer_kls(tmp_path / "k.png", rows, free_bits=2.0, title="a run")
    assert pixels(tmp_path / "k.png").shape == (max(550, 200 + 24 * layers), 1200, 3)
    assert os.listdir(tmp_path) == ["k.png"]
    _, name = hierarchy_figure.last_means(rows)
    assert name == (f"test set, step {10 * evaluations}" if evaluations else "training batch, step 49")
    left, right = kl_axes(rows, free_bits=2.0)
    np.testing.assert_allclose([bar.get_width() for bar in left.patches], 300 / np.arange(1, layers + 1) ** 2)
    assert left.get_xscale() == right.get_yscale() == "symlog"
    assert len(right.lines) == layers * (1 + (evaluations > 0)) + 1
    colors = {
        line.get_color() if isinstance(line.get_color(), str) else tuple(line.get_color()) for line in right.lines
    }
    assert len(colors) == layers + 1  # and the free bits'


def test_free_bits_above_every_layer_are_visible():
    rows = kl_rows(3, scale=0.001)
    for axes, limits in zip(kl_axes(rows, free_bits=2.0), ("xlim", "ylim"), strict=True):
        assert getattr(axes, f"get_{limits}")()[1] > 2


def test_small_negative_and_missing_kls_are_drawn(tmp_path):
    rows = kl_rows(4, scale=0.01)
    rows[-1] |= {"kl/2": math.nan, "kl/3": None, "kl/4": -0.5}
    left, right = kl_axes(rows)
    assert left.get_xscale() == right.get_yscale() == "linear"
    assert [text.get_text() for text in left.texts] == ["3", "none", "none", "−0.5"]
    assert left.get_xlim()[0] < -0.5 < 3 < left.get_xlim()[1]
    for name, some in (("none.png", []), ("other.png", [{"step": 1, "split": "test", "rate": 3.0}]), ("few.png", rows)):
        hierarchy_figure.save_layer_kls(tmp_path / name, some, free_bits=2.0)
        assert pixels(tmp_path / name).shape == (550, 1200 if some is rows else 700, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p, x: hierarchy_figure.save_partial_samples(p, x, x[0, :1], side="top"),
            r"samples has shape \(3, 2, 4, 4, 3\); expected \(L \+ 1, 1, 4, 4, 3\)",
        ),
        (lambda p, x: hierarchy_figure.save_partial_samples(p, x[0], x[0], side="top"), r"samples has shape \(2, 4"),
        (
            lambda p, x: hierarchy_figure.save_layer_kls(p.with_suffix(".gif"), []),
            "path is .*x.gif; expected a name that ends in .png or .svg",
        ),
    ],
)
def test_bad_arguments_of_figures_are_refused(tmp_path, call, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        call(tmp_path / "x.png", np.zeros((3, 2, 4, 4, 3)))
    assert not os.listdir(tmp_path)
