"""onnxruntime.transformers.io_binding_helper: element types of a session's inputs and outputs for other libraries."""

from __future__ import annotations

import importlib

from tallow.compat.onnxruntime.kinds import NUMBER, WORD
from tallow.dtype import DType

_OF_WORD = {f"tensor({word})": dtype for dtype, word in WORD.items()}


def _dtype(ort_type: str) -> DType:
    if ort_type not in _OF_WORD:
        raise ValueError(f"{ort_type} not found in map")
    return _OF_WORD[ort_type]


class TypeHelper:
    """`tensor(float)` as a type of numpy, torch or ONNX; ValueError for what they lack."""

    @staticmethod
    def get_input_type(ort_session, name: str) -> str:
        return _type_of(ort_session.get_inputs(), name, "input")

    @staticmethod
    def get_output_type(ort_session, name: str) -> str:
        return _type_of(ort_session.get_outputs(), name, "output")

    @staticmethod
    def ort_type_to_numpy_type(ort_type: str):
        return bool if ort_type == "tensor(bool)" else _dtype(ort_type).numpy.type

    @staticmethod
    def ort_type_to_torch_type(ort_type: str):
        torch = importlib.import_module("torch")
        word = WORD[_dtype(ort_type)]
        name = {"float": "float32", "double": "float64"}.get(word, word.replace("float8", "float8_"))
        if not hasattr(torch, name):
            raise ValueError(f"{ort_type} not found in map")
        return getattr(torch, name)

    @staticmethod
    def ort_type_to_onnx_type(ort_type: str) -> int:
        return NUMBER[_dtype(ort_type)]

    @staticmethod
    def get_io_onnx_type_map(ort_session) -> dict[str, int]:
        ports = (*ort_session.get_inputs(), *ort_session.get_outputs())
        return {port.name: TypeHelper.ort_type_to_onnx_type(port.type) for port in ports}


def _type_of(ports, name: str, kind: str) -> str:
    for port in ports:
        if port.name == name:
            return port.type
    raise ValueError(f"{kind} name {name} not found")
