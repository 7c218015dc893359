"""Weights of the Inception network: the published PyTorch file, or folded arrays that end at Mixed_6e.

The file is read without PyTorch, and nothing that its pickle names is called. Missing weights are an error: there is no
substitute for them.
"""

import hashlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from calibrax.evaluation.metrics.inception import Params, check_feature, parameter_shapes

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_FILE}"
WEIGHTS_SIZE = 95_628_359  # bytes
# The file's name has the first digits of its SHA-256.
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BATCH_NORM_EPSILON = 1e-3
MAX_ITEMSIZE = 8  # bytes of a folded number
HEADER_BYTES = 4096  # of an array in an .npz, at most; NumPy's headers of plain arrays have 128


class InceptionWeightsError(ValueError):
    """The weights are missing, are not the published ones, or end before the requested features."""


def load_weights(path: str | Path | None, feature: int) -> dict[str, Any]:
    """The folded parameters up to a feature, float32.

    Args:
      path: `pt_inception-2015-12-05-6726825d.pth` as published, or an `.npz` of folded arrays that ends at Mixed_6e:
        `weights_NAME`, flat in the order [out][kh][kw][in], and `bias_NAME`, under TensorFlow's names.
      feature: 64, 192, 768 or 2048.

    Raises:
      InceptionWeightsError: if the file is missing, damaged or a different one, or ends before the feature.
      ValueError: if the feature is not one of these.
    """
    check_feature(feature)
    if path is None or not Path(path).is_file():
        raise InceptionWeightsError(f"weights file is {path}; expected {WEIGHTS_FILE}, from {WEIGHTS_URL}")
    path = Path(path)
    try:
        read = _read_folded if path.suffix == ".npz" else _read_published
        layers = read(path, parameter_shapes(feature))
    except InceptionWeightsError as error:
        raise InceptionWeightsError(f"{path}: {error}") from error
    except Exception as error:  # a damaged archive or pickle can raise anything
        raise InceptionWeightsError(f"{path} cannot be read: {error}".replace("\n", " ")) from error
    for name, layer in layers.items():
        if not all(np.isfinite(array).all() for array in layer.values()):
            raise InceptionWeightsError(f"{path}: layer {name} holds values that are not finite")
    return unflatten_dict(layers, sep=".")


def weights_digest(params: Params) -> str:
    """SHA-256 over names and values, which identifies the network."""
    digest = hashlib.sha256()
    for name, array in sorted(flatten_dict(params, sep=".").items()):
        digest.update(f"{name} {array.shape} ".encode() + np.ascontiguousarray(array, np.float32).tobytes())
    return digest.hexdigest()


def read_array(archive: zipfile.ZipFile, name: str, max_bytes: int) -> np.ndarray:
    """One array of an archive written by `np.savez` or `np.savez_compressed`; pickles are never opened.

    Raises:
      KeyError: if there is no array of that name.
      ValueError: if it is larger, compressed in another way, or no array. A damaged archive may raise other errors.
    """
    info = archive.getinfo(f"{name}.npy")
    # zipfile decompresses other kinds in large blocks.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed in a way that NumPy does not write")
    if info.file_size > max_bytes + HEADER_BYTES:
        raise ValueError(f"{name} has {info.file_size} bytes; expected at most {max_bytes}")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _read_folded(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
    """Layers from the `.npz` of folded arrays."""
    if any(name.startswith("Mixed_7") for name in shapes):
        raise InceptionWeightsError(f"these weights end at Mixed_6e; 2048 features need {WEIGHTS_FILE}")
    layers = {}
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        for name, (height, width, inputs, outputs) in shapes.items():
            weights_name, bias_name = (f"{kind}_{_tensorflow_name(name)}" for kind in ("weights", "bias"))
            if not {f"{weights_name}.npy", f"{bias_name}.npy"} <= names:
                raise InceptionWeightsError(f"there is no array {weights_name} or {bias_name}")
            size = height * width * inputs * outputs
            weights = read_array(archive, weights_name, MAX_ITEMSIZE * size)
            bias = read_array(archive, bias_name, MAX_ITEMSIZE * outputs)
            if weights.size != size or bias.shape != (outputs,) or {weights.dtype.kind, bias.dtype.kind} != {"f"}:
                raise InceptionWeightsError(f"{weights_name} or {bias_name} is of the wrong size or type for {name}")
            kernel = weights.reshape(outputs, height, width, inputs).transpose(1, 2, 3, 0)
            layers[name] = {"kernel": np.ascontiguousarray(kernel, np.float32), "bias": bias.astype(np.float32)}
    return layers


def _tensorflow_name(name: str) -> str:
    """`mixed_tower_conv_1` for `Mixed_5b.branch5x5_2`: the first tower and a tower's first layer have no number."""
    stem = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
    blocks = [f"Mixed_5{letter}" for letter in "bcd"] + [f"Mixed_6{letter}" for letter in "abcde"]
    if name in stem:
        block, tower, number = "", "", stem.index(name)
    else:
        block, branch = name.split(".")
        kind, _, digit = branch.removeprefix("branch").partition("_")
        number = int(digit) - 1 if digit.isdigit() else 0
        towers = {"1x1": "", "3x3": "", "5x5": "tower_", "7x7": "tower_", "": "tower_2_"}  # "" is branch_pool
        tower = towers.get(kind, "tower_" if block == "Mixed_6a" else "tower_1_")
        index = blocks.index(block)
        block = f"mixed_{index}_" if index else "mixed_"
    return f"{block}{tower}conv" + (f"_{number}" if number else "")


def _read_published(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
    """Layers from the PyTorch file, batch norm folded in float64."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise InceptionWeightsError(f"SHA-256 is {digest[:8]}...; expected {WEIGHTS_SHA256[:8]}..., from {WEIGHTS_URL}")
    state = _read_torch(path)
    layers = {}
    for name, (height, width, inputs, outputs) in shapes.items():
        weight = state.array(f"{name}.conv.weight", (outputs, inputs, height, width))
        parts = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, variance = (state.array(f"{name}.bn.{part}", (outputs,)) for part in parts)
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        kernel = weight.transpose(2, 3, 1, 0) * scale
        bias = beta - mean * scale
        layers[name] = {"kernel": np.ascontiguousarray(kernel, np.float32), "bias": bias.astype(np.float32)}
    return layers


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it: a view of a storage."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class _State(NamedTuple):
    tensors: Mapping[str, _Tensor]
    storages: Mapping[str, np.ndarray]

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """One tensor, float64."""
        tensor = self.tensors.get(name)
        if not isinstance(tensor, _Tensor) or tensor.shape != shape:
            found = tensor.shape if isinstance(tensor, _Tensor) else None
            raise InceptionWeightsError(f"the shape of {name} is {found}; expected {shape}")
        storage = self.storages[tensor.storage]
        reach = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, tensor.strides, strict=True))
        if min(tensor.offset, *tensor.strides) < 0 or reach >= storage.size:
            raise InceptionWeightsError(f"{name} reaches outside of its storage")
        strides = [stride * storage.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(storage[tensor.offset :], shape, strides).astype(np.float64)


class _Unpickler(pickle.Unpickler):
    """Reads descriptions of tensors. Any other global is refused before anything is called.

    The objects that a pickle can reach here (strings, a bound method, a built-in class) have no state to set.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self.storages: dict[str, tuple[str, int]] = {}  # name -> dtype, number of elements

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch.FloatStorage": "<f4",
            "torch.LongStorage": "<i8",
        }
        if f"{module}.{name}" not in allowed:
            raise InceptionWeightsError(f"the pickle asks for {module}.{name}; expected tensors alone")
        return allowed[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> str:
        kind, dtype, name, _, size, *view = pid
        if kind != "storage" or dtype not in ("<f4", "<i8") or any(view):
            raise InceptionWeightsError("the pickle holds something other than plain storages")
        self.storages[name] = dtype, size
        return name

    def _tensor(self, storage, offset, shape, strides, *rest) -> _Tensor:
        return _Tensor(storage, offset, shape, strides)


def _read_torch(path: Path) -> _State:
    """A state dict in the format of PyTorch before 1.6, that of the published file: pickles, then the storages."""
    with path.open("rb") as stream:
        magic, version = (_Unpickler(stream).load() for _ in range(2))
        if (magic, version) != (0x1950A86A20F9469CFC6C, 1001):
            raise InceptionWeightsError("this is no file of torch.save")
        _Unpickler(stream).load()  # the machine that wrote it; all are little-endian
        reader = _Unpickler(stream)
        tensors = reader.load()
        storages = {}
        for name in _Unpickler(stream).load():
            dtype, size = reader.storages[name]
            written = int.from_bytes(stream.read(8), "little")
            storages[name] = np.frombuffer(stream.read(size * np.dtype(dtype).itemsize), dtype)
            if not written == size == storages[name].size:
                raise InceptionWeightsError(f"storage {name} has {written} elements; expected {size}")
        return _State(tensors, storages)
