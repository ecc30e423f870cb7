"""Shared by the operator tests: a model of one node, and comparison with an oracle."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

import tallow


def one_node(op, inputs, outputs=1, opset=20, constants=(), free=(), domain="", **attributes):
    """A model of one node on arrays {name: array}. Those named in `constants` are initializers, axes of the
    others named in `free` are symbolic."""
    names = ["" if a is None else n for n, a in inputs.items()]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, name="it", **attributes)
    ports, tensors = [], []
    for name, array in inputs.items():
        if array is None:
            continue
        array = np.asarray(array)
        if name in constants:
            tensors.append(onnx.numpy_helper.from_array(array, name))
            continue
        kind = (
            onnx.TensorProto.STRING if array.dtype == object else helper.np_dtype_to_tensor_dtype(array.dtype)
        )
        shape = [f"{name}{a}" if name in free else d for a, d in enumerate(array.shape)]
        ports.append(helper.make_tensor_value_info(name, kind, shape))
    graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name=n) for n in results], tensors)
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def feed(proto, inputs):
    return {p.name: np.asarray(inputs[p.name]) for p in proto.graph.input}


def compiled(proto, folder):
    onnx.save(proto, folder / "m.onnx")
    return tallow.compile(folder / "m.onnx")


def results(proto, inputs, folder):
    """Our results, in order."""
    return list(compiled(proto, folder).run(feed(proto, inputs)).values())


def oracle(proto, inputs, reference):
    """What onnxruntime, or ONNX's reference, gives."""
    if reference:
        return ReferenceEvaluator(proto).run(None, feed(proto, inputs))
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feed(proto, inputs))


def agree(proto, inputs, folder, reference=False, rtol=1e-5, atol=1e-6):
    """Our results are the oracle's, dtypes and shapes included."""
    got, want = results(proto, inputs, folder), oracle(proto, inputs, reference)
    for mine, other in zip(got, want, strict=True):
        other = np.asarray(other)
        assert mine.shape == other.shape
        if other.dtype.kind in "fc":
            assert mine.dtype == other.dtype
            np.testing.assert_allclose(mine, other, rtol, atol)
        else:
            np.testing.assert_array_equal(mine, other)
    return got
