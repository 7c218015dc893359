"""The Inception network against a plain NumPy one, and the reader of weights against files written here."""

import itertools
import math
import pickle
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from calibrax.evaluation.metrics import inception, inception_weights
from calibrax.evaluation.metrics.inception import Inception
from calibrax.evaluation.metrics.inception_weights import InceptionWeightsError, load_weights

STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]


class PlainInception:
    """The whole graph in float64 NumPy, written from its description; layers are drawn as they are met."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.layers = {}  # name -> (kernel [kh, kw, in, out], bias)

    def conv(self, x, name, features, kh, kw, stride=1, pad=(0, 0)):
        if name not in self.layers:
            scale = math.sqrt(2 / (kh * kw * x.shape[-1]))
            kernel = self.rng.normal(size=(kh, kw, x.shape[-1], features)) * scale
            self.layers[name] = kernel.astype(np.float32), self.rng.normal(size=features).astype(np.float32) / 10
        kernel, bias = self.layers[name]
        x = np.pad(x, [(pad[0], pad[0]), (pad[1], pad[1]), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(0, 1))[::stride, ::stride]
        out = np.tensordot(windows, kernel.astype(np.float64), axes=([3, 4, 2], [0, 1, 2])) + bias
        return np.maximum(out, 0)

    @staticmethod
    def windows(x, fill, stride, pad):
        x = np.pad(x, [(pad, pad), (pad, pad), (0, 0)], constant_values=fill)
        return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))[::stride, ::stride]

    def max_pool(self, x, stride=2, pad=0):
        return self.windows(x, -np.inf, stride, pad).max(axis=(3, 4))

    def average_pool(self, x):
        return np.nanmean(self.windows(x, np.nan, 1, 1), axis=(3, 4))

    def a(self, x, name, pool):
        y = self.conv(x, f"{name}.branch5x5_1", 48, 1, 1)
        z = self.conv(x, f"{name}.branch3x3dbl_1", 64, 1, 1)
        z = self.conv(z, f"{name}.branch3x3dbl_2", 96, 3, 3, pad=(1, 1))
        branches = [
            self.conv(x, f"{name}.branch1x1", 64, 1, 1),
            self.conv(y, f"{name}.branch5x5_2", 64, 5, 5, pad=(2, 2)),
            self.conv(z, f"{name}.branch3x3dbl_3", 96, 3, 3, pad=(1, 1)),
            self.conv(self.average_pool(x), f"{name}.branch_pool", pool, 1, 1),
        ]
        return np.concatenate(branches, axis=-1)

    def b(self, x, name):
        z = self.conv(x, f"{name}.branch3x3dbl_1", 64, 1, 1)
        z = self.conv(z, f"{name}.branch3x3dbl_2", 96, 3, 3, pad=(1, 1))
        z = self.conv(z, f"{name}.branch3x3dbl_3", 96, 3, 3, stride=2)
        return np.concatenate([self.conv(x, f"{name}.branch3x3", 384, 3, 3, stride=2), z, self.max_pool(x)], axis=-1)

    def c(self, x, name, width):
        y = self.conv(x, f"{name}.branch7x7_1", width, 1, 1)
        y = self.conv(y, f"{name}.branch7x7_2", width, 1, 7, pad=(0, 3))
        y = self.conv(y, f"{name}.branch7x7_3", 192, 7, 1, pad=(3, 0))
        z = self.conv(x, f"{name}.branch7x7dbl_1", width, 1, 1)
        z = self.conv(z, f"{name}.branch7x7dbl_2", width, 7, 1, pad=(3, 0))
        z = self.conv(z, f"{name}.branch7x7dbl_3", width, 1, 7, pad=(0, 3))
        z = self.conv(z, f"{name}.branch7x7dbl_4", width, 7, 1, pad=(3, 0))
        z = self.conv(z, f"{name}.branch7x7dbl_5", 192, 1, 7, pad=(0, 3))
        pooled = self.conv(self.average_pool(x), f"{name}.branch_pool", 192, 1, 1)
        return np.concatenate([self.conv(x, f"{name}.branch1x1", 192, 1, 1), y, z, pooled], axis=-1)

    def d(self, x, name):
        y = self.conv(x, f"{name}.branch3x3_1", 192, 1, 1)
        y = self.conv(y, f"{name}.branch3x3_2", 320, 3, 3, stride=2)
        z = self.conv(x, f"{name}.branch7x7x3_1", 192, 1, 1)
        z = self.conv(z, f"{name}.branch7x7x3_2", 192, 1, 7, pad=(0, 3))
        z = self.conv(z, f"{name}.branch7x7x3_3", 192, 7, 1, pad=(3, 0))
        z = self.conv(z, f"{name}.branch7x7x3_4", 192, 3, 3, stride=2)
        return np.concatenate([y, z, self.max_pool(x)], axis=-1)

    def e(self, x, name, pooled):
        y = self.conv(x, f"{name}.branch3x3_1", 384, 1, 1)
        z = self.conv(x, f"{name}.branch3x3dbl_1", 448, 1, 1)
        z = self.conv(z, f"{name}.branch3x3dbl_2", 384, 3, 3, pad=(1, 1))
        branches = [
            self.conv(x, f"{name}.branch1x1", 320, 1, 1),
            self.conv(y, f"{name}.branch3x3_2a", 384, 1, 3, pad=(0, 1)),
            self.conv(y, f"{name}.branch3x3_2b", 384, 3, 1, pad=(1, 0)),
            self.conv(z, f"{name}.branch3x3dbl_3a", 384, 1, 3, pad=(0, 1)),
            self.conv(z, f"{name}.branch3x3dbl_3b", 384, 3, 1, pad=(1, 0)),
            self.conv(pooled, f"{name}.branch_pool", 192, 1, 1),
        ]
        return np.concatenate(branches, axis=-1)

    def __call__(self, x):
        """Of one image [299, 299, 3]: each feature, and the number of layers that lead to it."""
        found = {}

        def note(x):
            found[x.shape[-1]] = x.mean(axis=(0, 1)), len(self.layers)
            return x

        x = self.conv(x, STEM[0], 32, 3, 3, stride=2)
        x = self.conv(x, STEM[1], 32, 3, 3)
        x = note(self.max_pool(self.conv(x, STEM[2], 64, 3, 3, pad=(1, 1))))
        x = self.conv(x, STEM[3], 80, 1, 1)
        x = note(self.max_pool(self.conv(x, STEM[4], 192, 3, 3)))
        x = self.a(self.a(self.a(x, "Mixed_5b", 32), "Mixed_5c", 64), "Mixed_5d", 64)
        x = self.b(x, "Mixed_6a")
        for letter, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = self.c(x, f"Mixed_6{letter}", width)
        x = self.d(note(x), "Mixed_7a")
        x = self.e(x, "Mixed_7b", self.average_pool(x))
        note(self.e(x, "Mixed_7c", self.max_pool(x, stride=1, pad=1)))
        return found


@pytest.fixture(scope="module")
def plain():
    """The plain network, one image and its features at every depth."""
    network = PlainInception()
    image = np.random.default_rng(1).uniform(-1, 1, (299, 299, 3)).astype(np.float32)
    return network, image, network(image.astype(np.float64))


def first_layers(network, number):
    return dict(itertools.islice(network.layers.items(), number))


def as_params(layers):
    return unflatten_dict({name: {"kernel": kernel, "bias": bias} for name, (kernel, bias) in layers.items()}, sep=".")


@pytest.fixture(scope="module")
def params(plain):
    return as_params(first_layers(plain[0], 3))


@pytest.mark.parametrize("feature", inception.FEATURES)
def test_network_is_the_plain_one(plain, feature):
    network, image, found = plain
    expected, number = found[feature]
    layers = first_layers(network, number)
    shapes = inception.parameter_shapes(feature)
    assert shapes == {name: kernel.shape for name, (kernel, _) in layers.items()}
    variables = {"params": as_params(layers)}
    actual = jax.jit(Inception(feature).apply)(variables, image[None])[0]
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


def test_number_of_parameters():
    shapes = inception.parameter_shapes(2048)
    biases = sum(shape[-1] for shape in shapes.values())
    folded = sum(math.prod(shape) for shape in shapes.values()) + biases
    assert len(shapes) == 94
    assert folded == 21_768_352
    assert folded + biases == 21_785_568  # pytorch-fid's count without the last layer: a scale for every bias


def plain_resize(image, size):
    """Bilinear with half-pixel centres and clamped borders, no antialias: pixel i reads (i + 1/2)·n/size - 1/2."""
    for axis in (0, 1):
        n = image.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        low = np.floor(position).astype(int)
        share = (position - low).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, n - 1)
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (28, 20, 1), (299, 299, 3), (400, 310, 3)])
def test_preprocessing_is_a_plain_resize(shape):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    actual = inception.preprocess(jnp.asarray(images))
    expected = np.stack([2 * plain_resize(image / 255, 299) - 1 for image in images])
    assert actual.shape == (2, 299, 299, 3)
    tolerance = 1e-5 if shape[0] <= 299 else 1e-4  # in float32 a position near 400 is good to 3e-5
    np.testing.assert_allclose(actual, np.broadcast_to(expected, actual.shape), atol=tolerance)


def test_images_become_uint8_as_in_a_file():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(inception.to_uint8(levels / np.float32(255)), levels)
    np.testing.assert_array_equal(inception.to_uint8(jnp.asarray(levels / 255, jnp.float32)), levels)
    outside = np.array([-1, 2, 0.5, np.inf]).reshape(1, 2, 2, 1)
    assert inception.to_uint8(outside).ravel().tolist() == [0, 255, 128, 255]


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 2)), np.zeros((2, 8, 8, 3), int), np.full((1, 2, 2, 1), np.nan)],
)
def test_other_images_are_refused(images):
    with pytest.raises(ValueError, match=r"images h.*expected"):
        inception.to_uint8(images)


def test_features_by_batches_and_devices(params, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, 12, 10, 1), dtype=np.uint8)
    variables = {"params": params}
    expected = [Inception(64).apply(variables, inception.preprocess(jnp.asarray(image[None])))[0] for image in images]
    options = {"feature": 64, "batch_size": 3}
    spread = inception.features(params, images, feature=64)  # all eight devices, a single batch of eight

    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    inception._forward_function.cache_clear()
    by_batch = inception.features(params, images, **options)
    assert by_batch.shape == (7, 64)
    assert by_batch.dtype == np.float32
    assert inception._forward_function(64)._cache_size() == 1
    np.testing.assert_allclose(by_batch, expected, rtol=1e-5, atol=1e-6)

    as_floats = inception.features(params, images.astype(np.float32) / 255, **options)
    np.testing.assert_array_equal(as_floats, by_batch)
    rgb = inception.features(params, jnp.asarray(np.repeat(images, 3, axis=-1)), **options)
    np.testing.assert_allclose(rgb, by_batch, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(spread, by_batch, rtol=1e-5, atol=1e-6)


def test_no_images_are_refused(params):
    with pytest.raises(ValueError, match="images is empty"):
        inception.features(params, np.zeros((0, 8, 8, 1), np.uint8), feature=64)
    one = np.zeros((1, 8, 8, 1), np.uint8)
    with pytest.raises(ValueError, match="feature is 100; expected one of 64, 192, 768, 2048"):
        inception.features(params, one, feature=100)
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        inception.features(params, one, feature=64, batch_size=0)


def folded_arrays(layers):
    """Under TensorFlow's names, whose counters run within a tower."""
    towers = {"branch5x5": "tower", "branch7x7": "tower", "branch7x7dbl": "tower_1", "branch_pool": "tower_2"}
    blocks = list(dict.fromkeys(name.partition(".")[0] for name in layers if "." in name))
    arrays = {}
    for name, (kernel, bias) in layers.items():
        block, _, branch = name.partition(".")
        if not branch:
            place, number = "", STEM.index(name)
        else:
            base, _, digit = branch.rpartition("_") if branch[-1].isdigit() and "_" in branch else (branch, "", "1")
            tower = towers.get(base, "")
            if base == "branch3x3dbl":
                tower = "tower" if block == "Mixed_6a" else "tower_1"
            index, number = blocks.index(block), int(digit) - 1
            place = (f"mixed_{index}_" if index else "mixed_") + (f"{tower}_" if tower else "")
        key = f"{place}conv" + (f"_{number}" if number else "")
        arrays[f"weights_{key}"] = kernel.transpose(3, 0, 1, 2).ravel()
        arrays[f"bias_{key}"] = bias
    return arrays


def test_folded_arrays(plain, tmp_path):
    network, _, found = plain
    layers = first_layers(network, found[768][1])
    arrays = folded_arrays(layers)
    assert {"weights_conv_4", "weights_mixed_tower_1_conv_2", "weights_mixed_3_tower_conv_2"} < set(arrays)
    assert {"weights_mixed_3_conv", "bias_mixed_7_tower_1_conv_4", "bias_mixed_4_tower_2_conv"} < set(arrays)
    path = tmp_path / "folded.npz"
    np.savez(path, **arrays)
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, 768), as_params(layers))
    with pytest.raises(InceptionWeightsError, match="these weights end at Mixed_6e; 2048 features need pt_incep"):
        load_weights(path, 2048)

    few = {name: array for name, array in arrays.items() if name.count("_") == 1 or "conv_1" in name}
    for change, message in (
        ({"bias_conv": None}, "there is no array weights_conv or bias_conv"),
        ({"weights_conv": np.zeros(5, np.float32)}, "weights_conv or bias_conv is of the wrong size"),
        ({"bias_conv": np.full(32, np.nan, np.float32)}, "Conv2d_1a_3x3 holds values that are not finite"),
        ({"bias_conv": np.array([{}] * 32)}, "cannot be read: .*pickle"),
    ):
        changed = {name: array for name, array in {**few, **arrays, **change}.items() if array is not None}
        np.savez(path, **{name: array for name, array in changed.items() if "mixed" not in name})
        with pytest.raises(InceptionWeightsError, match=message):
            load_weights(path, 64)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InceptionWeightsError, match=r"folded.npz cannot be read") as error:
        load_weights(path, 64)
    assert "\n" not in str(error.value)


def test_missing_weights(tmp_path):
    for path in (None, tmp_path / "absent.pth", tmp_path):
        with pytest.raises(InceptionWeightsError, match=r"file is .*expected pt_incep.*from https:") as error:
            load_weights(path, 2048)
        assert "\n" not in str(error.value)


# What torch.save wrote before PyTorch 1.6, opcode by opcode (protocol 2), so that no PyTorch is needed.


def opcodes(value):
    return pickle.dumps(value, 2)[2:-1]


def pickled_state(state, view=()):
    """A state dict of arrays; array number i lies in storage i, from element 2 on, in its own order of strides."""
    ordered_dict = b"ccollections\nOrderedDict\n)R"
    items = b""
    for number, (name, array) in enumerate(state.items()):
        kind = b"LongStorage" if array.dtype == np.int64 else b"FloatStorage"
        storage = b"(" + opcodes("storage") + b"ctorch\n" + kind + b"\n" + opcodes(str(number)) + opcodes("cpu")
        storage += opcodes(array.size + 2) + b"".join(opcodes(extra) for extra in view) + b"tQ"
        strides = tuple(stride // array.itemsize for stride in array.strides)
        tensor = storage + opcodes(2) + opcodes(array.shape) + opcodes(strides) + b"\x89" + ordered_dict
        items += opcodes(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + tensor + b"tR"
    return b"\x80\x02" + ordered_dict + b"(" + items + b"u" + opcodes({"_metadata": {"version": 1}}) + b"b."


def storage_bytes(array):
    """The array's memory in the order it lies, after two elements of something else."""
    axes = np.argsort([-stride for stride in array.strides], kind="stable")
    return np.concatenate([np.full(2, 7, array.dtype), array.transpose(axes).ravel()]).tobytes()


def write_published(path, state, pickled=None):
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    data = b"".join(pickle.dumps(value, 2) for value in head) + (pickled or pickled_state(state, view=(None,)))
    data += pickle.dumps([str(number) for number in range(len(state))], 2)
    for array in state.values():
        data += (array.size + 2).to_bytes(8, "little") + storage_bytes(array)
    path.write_bytes(data)


@pytest.fixture
def state():
    """Batch norm and convolutions of the first three layers, one weight with its axes in another order in memory."""
    rng, state = np.random.default_rng(0), {}
    for name, (outputs, inputs) in zip(STEM[:3], [(32, 3), (32, 32), (64, 32)], strict=True):
        state[f"{name}.conv.weight"] = rng.normal(size=(outputs, inputs, 3, 3)).astype(np.float32)
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{part}"] = rng.uniform(0.1, 2, outputs).astype(np.float32)
        state[f"{name}.bn.num_batches_tracked"] = np.array(0)
    weight = state[f"{STEM[1]}.conv.weight"]
    state[f"{STEM[1]}.conv.weight"] = np.ascontiguousarray(weight.transpose(3, 0, 2, 1)).transpose(1, 3, 2, 0)
    return state


@pytest.fixture
def any_digest(monkeypatch):
    monkeypatch.setattr(inception_weights, "WEIGHTS_SHA256", mock.ANY)


@pytest.mark.usefixtures("any_digest")
def test_published_file_is_read_and_folded(state, tmp_path):
    path = tmp_path / "weights.pth"
    write_published(path, state)
    params = flatten_dict(load_weights(path, 64), sep=".")
    assert set(params) == {f"{name}.{part}" for name in STEM[:3] for part in ("kernel", "bias")}
    x = np.random.default_rng(1).normal(size=(5, 3, 3, 32))
    for name in STEM[:3]:
        part = {key.rpartition(".")[2]: np.float64(a) for key, a in state.items() if key.startswith(f"{name}.bn.")}
        weight = state[f"{name}.conv.weight"].astype(np.float64)
        patches = x[..., : weight.shape[1]]
        convolved = np.einsum("bhwi,oihw->bo", patches, weight)
        normalised = (convolved - part["running_mean"]) / np.sqrt(part["running_var"] + 1e-3)
        expected = normalised * part["weight"] + part["bias"]
        actual = np.einsum("bhwi,hwio->bo", patches, params[f"{name}.kernel"]) + params[f"{name}.bias"]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        assert params[f"{name}.kernel"].dtype == np.float32


def test_another_file_is_refused_before_it_is_read(state, tmp_path, monkeypatch):
    path = tmp_path / inception_weights.WEIGHTS_FILE
    write_published(path, state)
    monkeypatch.setattr(inception_weights, "_read_torch", lambda path: pytest.fail("read"))
    with pytest.raises(InceptionWeightsError, match=r"SHA-256 is \w{8}...; expected 6726825d..., from https:"):
        load_weights(path, 64)


@pytest.mark.parametrize("name", ["os\nsystem", "posix\nsystem", "builtins\neval", "torch\nHalfStorage"])
@pytest.mark.usefixtures("any_digest")
def test_pickles_run_nothing(state, tmp_path, name):
    marker = tmp_path / "ran"
    command = f"open({str(marker)!r}, 'w')" if "eval" in name else f"touch {marker}"
    attack = b"\x80\x02c" + name.encode() + b"\n(" + opcodes(command) + b"tR."
    path = tmp_path / "weights.pth"
    write_published(path, state, pickled=attack)
    with pytest.raises(InceptionWeightsError, match=f"asks for {name.replace(chr(10), '.')}; expected tensors alone"):
        load_weights(path, 64)
    assert not marker.exists()


@pytest.mark.usefixtures("any_digest")
def test_damaged_published_files_are_refused(state, tmp_path):
    path = tmp_path / "weights.pth"
    weight, mean = f"{STEM[0]}.conv.weight", f"{STEM[0]}.bn.running_mean"

    def refused(message):
        with pytest.raises(InceptionWeightsError, match=message) as error:
            load_weights(path, 64)
        assert "\n" not in str(error.value)

    write_published(path, {name: array for name, array in state.items() if name != mean})
    refused(f"the shape of {mean} is None; expected \\(32,\\)")
    write_published(path, {**state, weight: state[weight][..., :1]})
    refused(f"the shape of {weight} is \\(32, 3, 3, 1\\); expected \\(32, 3, 3, 3\\)")
    far = np.lib.stride_tricks.as_strided(state[mean], strides=(4 * 2,))
    write_published(path, state, pickled=pickled_state({**state, mean: far}))
    refused(f"{mean} reaches outside of its storage")
    write_published(path, {**state, mean: state[mean][:16]}, pickled=pickled_state(state))
    refused(r"cannot be read|has \d+ elements; expected")
    write_published(path, {**state, f"{STEM[0]}.bn.running_var": np.full(32, np.inf, np.float32)})
    load_weights(path, 64)  # an infinite variance folds to zero
    write_published(path, {**state, mean: np.full(32, np.inf, np.float32)})
    refused("layer Conv2d_1a_3x3 holds values that are not finite")
    write_published(path, state)
    whole = path.read_bytes()
    for length in (0, 3, 40, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        refused("weights.pth")


def test_digests_of_different_weights_differ(params):
    other = jax.tree.map(np.copy, params)
    assert inception_weights.weights_digest(other) == inception_weights.weights_digest(params)
    other[STEM[0]]["bias"][0] += 1e-3
    assert inception_weights.weights_digest(other) != inception_weights.weights_digest(params)
