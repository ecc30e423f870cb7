"""Probes: a node of each operator, for every dtype that its schema allows, scheduled for each backend: as
`written_probes` has it, else ONNX's smallest node test. Operands after the first are constants, as models mostly have
them. What comes out as a step on the host has no kernel there."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
import written_probes
from written_probes import NUMBERS, element

from tallow import plugins
from tallow.errors import TallowError
from tallow.schedule.program import ControlStep, HostStep, Program
from tallow.stages import lower, prepare
from tallow.testing.onnx_nodes import cases
from tallow_importers.onnx.importer import load_model_proto
from tallow_importers.onnx.tensors import ONNX_DTYPES

TARGETS = {"cpu": "x86-64-v3", "opencl": "gpu+fp64", "cuda": "sm_90"}
GROUPS = {
    "floats": ("f64", "f32", "f16", "bf16"),
    "integers": ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8"),
    "f8": ("f8e4m3", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz"),
    "complex": ("c64", "c128"),
}


@dataclass(slots=True)
class Found:
    """Dtypes of an operator's operands: compiled on each backend, and on the host of one; those refused."""

    compiled: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in TARGETS})
    host: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in TARGETS})
    refused: list[str] = field(default_factory=list)


def _weight(case) -> tuple[bool, int]:
    """Small ones first, those of strings last: these make no other dtype."""
    texts = any(p.type.tensor_type.elem_type == onnx.TensorProto.STRING for p in case.model.graph.input)
    return texts, case.model.ByteSize()


@cache
def smallest() -> dict[tuple[str, str], object]:
    """The smallest node test of each operator that is one node of it."""
    found: dict[tuple[str, str], object] = {}
    for case in cases("node"):
        nodes = case.model.graph.node
        if len(nodes) == 1 and not case.model.functions:
            key = (nodes[0].domain, nodes[0].op_type)
            if key not in found or _weight(case) < _weight(found[key]):
                found[key] = case
    return found


def retyped(case) -> dict[str, onnx.ModelProto]:
    """A node test's model with each dtype that the schema allows for operands of the type that has most of them,
    and for others of which it allows the same."""
    model, node = case.model, case.model.graph.node[0]
    opset = next((o.version for o in model.opset_import if o.domain == node.domain), 1)
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    if not node.input or not schema.inputs:
        return {}
    choices = {c.type_param_str: tuple(_elements(c.allowed_type_strs)) for c in schema.type_constraints}
    kinds = [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(len(node.input))]
    formal = [choices.get(kind) or tuple(_elements([kind])) for kind in kinds]
    allowed = max(formal, key=len)
    same = {name for name, each in zip(node.input, formal, strict=True) if each == allowed}
    return {dtype: _of_dtype(case, same, NUMBERS[dtype]) for dtype in allowed}


def _elements(kinds: Iterable[str]) -> list[str]:
    """The element types in types of a schema."""
    return [name for name in dict.fromkeys(map(element, kinds)) if name is not None]


def _tensor_type(kind: onnx.TypeProto) -> onnx.TypeProto.Tensor:
    """The type of the tensors that a value holds."""
    while not kind.HasField("tensor_type"):
        kind = getattr(kind, kind.WhichOneof("value")).elem_type
    return kind.tensor_type


def _of_dtype(case, names: set[str], number: int) -> onnx.ModelProto:
    """The case's model with the named operands of one dtype, and constants after the first operand."""
    copy = onnx.ModelProto.FromString(case.model.SerializeToString())
    ports, arrays = list(copy.graph.input), case.data_sets[0][0]
    for port, array in zip(ports, arrays, strict=True):
        tensor = _tensor_type(port.type)
        if port.name in names:
            tensor.elem_type = number
        if port is not ports[0] and isinstance(array, (np.ndarray, np.generic)):
            dtype = ONNX_DTYPES[tensor.elem_type]
            array = np.asarray(array)
            array = array.astype(str).astype(object) if dtype.kind == "string" else array.astype(dtype.numpy)
            copy.graph.initializer.append(onnx.numpy_helper.from_array(array, port.name))
    constant = {tensor.name for tensor in copy.graph.initializer}
    kept = [port for port in ports if port.name not in constant]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    for port in copy.graph.output:
        port.ClearField("type")
    return copy


def _models(domain: str, name: str) -> dict[str, onnx.ModelProto]:
    """A model of one node for each dtype."""
    case = smallest().get((domain, name))
    return written_probes.models(domain, name) or ({} if case is None else retyped(case))


def probe(domain: str, name: str) -> Found | None:
    """What becomes of an operator, or None where there is no node of it to try."""
    models, found = _models(domain, name), Found()
    for dtype, each in models.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graph = load_model_proto(each)
        except TallowError:
            found.refused.append(dtype)
            continue
        for backend, target in _targets().items():
            program = lower(prepare(graph, backend, target), backend, target).program
            kind = found.host if on_host(program) else found.compiled
            kind[backend.name].append(dtype)
    return found if models else None


@cache
def _targets() -> dict:
    return {plugins.backend(n): plugins.backend(n).target(arch) for n, arch in TARGETS.items()}


def on_host(program: Program) -> bool:
    """Whether an operator runs on the host; sizes that are read and branches do not count."""
    for step in program.steps:
        if isinstance(step, ControlStep) and any(map(on_host, step.regions.values())):
            return True
        if isinstance(step, HostStep) and step.op not in ("read_dims", "fail"):
            return True
    return False


def described(found: Found | None) -> tuple[str, str]:
    """(dtypes with kernels, dtypes on the host), a backend by name where they differ."""
    if found is None:
        return "", ""
    return _by_backend(found.compiled), _by_backend(found.host)


def _by_backend(dtypes: dict[str, list[str]]) -> str:
    texts = {name: grouped(each) for name, each in dtypes.items()}
    if len(set(texts.values())) == 1:
        return texts.popitem()[1]
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text)


def grouped(dtypes: list[str]) -> str:
    """Dtypes in few words: whole groups by name."""
    words = []
    for name, members in GROUPS.items():
        if set(members) <= set(dtypes):
            words.append(name)
            dtypes = [d for d in dtypes if d not in members]
        else:
            words += [m for m in members if m in dtypes]
    rest = [d for d in dtypes if not any(d in members for members in GROUPS.values())]
    return " ".join([*words, *sorted(rest)])
