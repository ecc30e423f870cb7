"""The interface of onnx.backend.base: models and single nodes in memory, compiled and run by Tallow.

`onnx.backend.test.BackendTest(tallow_importers.onnx.backend, __name__)` drives it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from tallow import plugins
from tallow.compile import compile as compile_graph
from tallow.errors import TallowError
from tallow.executable import Executable
from tallow_importers.onnx.importer import load_model_proto

DEVICES = {"CPU": "cpu", "CUDA": "cuda", "OPENCL": "opencl"}  # ONNX's name of a device: ours


class PreparedModel(BackendRep):
    """A compiled model; `executable` is the same for those who want more than arrays in order."""

    def __init__(self, executable: Executable):
        self.executable = executable

    def run(self, inputs: object, **kwargs) -> tuple:
        """Results in the order of the model's outputs. Inputs by name, in order, or one alone."""
        ports = self.executable.inputs
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        elif isinstance(inputs, (list, tuple)) and not (len(ports) == 1 and ports[0].dtype is None):
            given = dict(zip((p.name for p in ports), inputs, strict=False))
        elif isinstance(inputs, (list, tuple)) and len(inputs) == 1:
            given = {ports[0].name: inputs[0]}
        else:
            given = {ports[0].name: inputs}
        return tuple(self.executable.run(given).values())


class TallowBackend(Backend):
    """Compiles with `tallow.compile`; every refusal is a TallowError that names the node."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs) -> PreparedModel:
        """The model compiled for a device. `folder` is where external data lies, `dims` fixes sizes, `threads`
        limits them. Raises ImportFailed, CompileError or Unavailable."""
        folder = kwargs.get("folder")
        graph = load_model_proto(
            model, Path(folder) if folder else None, model.graph.name or "model", kwargs.get("dims")
        )
        return PreparedModel(compile_graph(graph, _device(device), threads=kwargs.get("threads")))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: object, device: str = "CPU", **kwargs) -> tuple:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Sequence[np.ndarray],
        device: str = "CPU",
        outputs_info: Sequence[tuple] | None = None,
        **kwargs,
    ) -> tuple:
        """One operator on arrays; its inputs have the arrays' dtypes and shapes. `opset_version` is that of
        the node's domain, the newest if it is not given."""
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        names = [n for n in node.input if n]
        ports = [_port(n, np.asarray(a)) for n, a in zip(names, given, strict=True)]
        results = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        graph = onnx.helper.make_graph([node], node.op_type, ports, results)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
        return cls.run_model(model, dict(zip(names, given, strict=True)), device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether a backend of that name is installed and has a device here."""
        try:
            return bool(plugins.backend(_device(device)).devices())
        except TallowError:
            return False


def _device(name: str) -> str:
    kind, _, number = name.partition(":")
    ours = DEVICES.get(kind.upper(), kind.lower())
    return f"{ours}:{number}" if number and ours != "cpu" else ours


def _port(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    kind = onnx.TensorProto.STRING
    if array.dtype.kind not in "OUS":
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, array.shape)


prepare = TallowBackend.prepare
run_model = TallowBackend.run_model
run_node = TallowBackend.run_node
supports_device = TallowBackend.supports_device
