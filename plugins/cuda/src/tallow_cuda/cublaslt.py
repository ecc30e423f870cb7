"""Calls of cuBLASLt: a matrix product with what follows it, set up once and started again and again.

Matrices of rows read as matrices of columns are their transposes, so the library, which counts in columns,
is asked for the transposed result of the operands in turn. Source: cublasLt.h of CUDA 12.9.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Mapping, Sequence

from tallow.backend import BoundStep
from tallow.errors import TallowError
from tallow_cuda import libraries

ALIGNMENT = 64  # of all memory of a device
WORKSPACE = 32 << 20  # bytes
DATA_TYPES = {"f32": 0, "f64": 1, "f16": 2, "bf16": 14}  # cudaDataType_t
COMPUTE_F32, COMPUTE_TF32, COMPUTE_F64 = 68, 77, 70  # cublasComputeType_t
TRANSA, TRANSB, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
BATCH_COUNT, BATCH_OFFSET = 5, 6  # cublasLtMatrixLayoutAttribute_t
MAX_WORKSPACE, MIN_ALIGNMENTS = 1, (5, 6, 7, 8)  # cublasLtMatmulPreferenceAttributes_t
EPILOGUES = {"default": 1, "relu": 2, "bias": 4, "relu_bias": 6}

_handles: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # device -> handle and workspace
_lock = threading.Lock()


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t; an algorithm is its first 64 bytes."""

    _fields_ = [
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


def _handle(device):
    """The library's handle for a device, and the memory that its algorithms share."""
    with _lock:
        if device not in _handles:
            handle = ctypes.c_void_p()
            _check(libraries.cublaslt().cublasLtCreate(ctypes.byref(handle)), "starting cuBLASLt")
            _handles[device] = handle, device.allocate(WORKSPACE)
        return _handles[device]


def _check(status: int, what: str) -> None:
    if status:
        raise TallowError(f"{what}: cuBLASLt failed with status {status} (cublasStatus_t)")


class _Object:
    """One of the library's objects with attributes, destroyed with this."""

    def __init__(self, kind: str, *arguments):
        self.library, self.kind, self.pointer = libraries.cublaslt(), kind, ctypes.c_void_p()
        _check(getattr(self.library, f"{kind}Create")(ctypes.byref(self.pointer), *arguments), kind)

    def set(self, attribute: int, value) -> None:
        setter = getattr(self.library, f"{self.kind}SetAttribute")
        size = ctypes.c_size_t(ctypes.sizeof(value))
        _check(setter(self.pointer, attribute, ctypes.byref(value), size), self.kind)

    def __del__(self):
        if self.pointer:
            getattr(self.library, f"{self.kind}Destroy")(self.pointer)


class Product:
    """A product for known sizes: what `_Launch` is for a kernel."""

    def __init__(self, device, call: Mapping, step: BoundStep):
        self.library, self.label = libraries.cublaslt(), step.label
        self.arguments = [step.arguments[n] for n in call["operands"]]
        self.places = [0] * len(self.arguments)
        rows, columns, depth, items = step.sizes[-4:]
        double = call["dtype"] == "f64"
        scale = ctypes.c_double if double else ctypes.c_float
        self.one, self.zero = scale(1), scale(0)
        compute = COMPUTE_TF32 if call["tf32"] and call["dtype"] == "f32" else COMPUTE_F32
        self.operation = _Object(
            "cublasLtMatmulDesc", COMPUTE_F64 if double else compute, DATA_TYPES["f64" if double else "f32"]
        )
        left_turned, right_turned = call["transposed"]
        self.operation.set(TRANSA, ctypes.c_int32(right_turned))
        self.operation.set(TRANSB, ctypes.c_int32(left_turned))
        self.operation.set(EPILOGUE, ctypes.c_uint32(EPILOGUES[call["epilogue"]]))
        self.has_bias = "bias" in call["epilogue"]
        if self.has_bias:
            self.operation.set(BIAS_POINTER, ctypes.c_void_p(ALIGNMENT))  # its alignment guides the choice
        dtype = DATA_TYPES[call["dtype"]]
        self.right = _matrix(dtype, *((depth, columns) if right_turned else (columns, depth)), items)
        self.left = _matrix(dtype, *((rows, depth) if left_turned else (depth, rows)), items)
        self.result = _matrix(dtype, columns, rows, items)
        self.handle, workspace = _handle(device)
        self.workspace = device.address(workspace)
        self.found = self._choose()

    def _choose(self) -> Heuristic:
        """The algorithm that the library thinks is fastest."""
        preference = _Object("cublasLtMatmulPreference")
        preference.set(MAX_WORKSPACE, ctypes.c_uint64(WORKSPACE))
        for attribute in MIN_ALIGNMENTS:
            preference.set(attribute, ctypes.c_uint32(ALIGNMENT))
        found, count = Heuristic(), ctypes.c_int()
        matrices = (m.pointer for m in (self.right, self.left, self.result, self.result))
        status = self.library.cublasLtMatmulAlgoGetHeuristic(
            self.handle,
            self.operation.pointer,
            *matrices,
            preference.pointer,
            1,
            ctypes.byref(found),
            ctypes.byref(count),
        )
        _check(status or found.state, f"{self.label}: choosing an algorithm")
        if not count.value:
            raise TallowError(f"{self.label}: cuBLASLt has no algorithm for this product")
        return found

    def bind(self, bases: Sequence[int]) -> None:
        self.places = [bases[base] + offset for base, offset in self.arguments]

    def start(self, device, stream: int) -> None:
        left, right, *bias, result = (ctypes.c_void_p(place) for place in self.places)
        if self.has_bias:
            self.operation.set(BIAS_POINTER, bias[0])
        status = self.library.cublasLtMatmul(
            self.handle,
            self.operation.pointer,
            ctypes.byref(self.one),
            right,
            self.right.pointer,
            left,
            self.left.pointer,
            ctypes.byref(self.zero),
            result,
            self.result.pointer,
            result,
            self.result.pointer,
            ctypes.byref(self.found),
            ctypes.c_void_p(self.workspace),
            ctypes.c_size_t(WORKSPACE),
            ctypes.c_void_p(stream),
        )
        _check(status, self.label)


def _matrix(dtype: int, high: int, wide: int, items: int) -> _Object:
    """Matrices one after another, each in columns without gaps."""
    layout = _Object(
        "cublasLtMatrixLayout", dtype, *(ctypes.c_uint64(n) for n in (high, wide)), ctypes.c_int64(high)
    )
    layout.set(BATCH_COUNT, ctypes.c_int32(items))
    layout.set(BATCH_OFFSET, ctypes.c_int64(high * wide if items > 1 else 0))
    return layout
