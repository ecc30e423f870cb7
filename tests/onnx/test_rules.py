"""Type rules take no operands that the numpy meaning cannot compute: what a rule lets pass, a kernel reads."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest

from tallow.dim import Expr
from tallow.errors import TallowError
from tallow.graph import TensorType, walk
from tallow.ops import OPS
from tallow.passes.bind import bind_dims
from tallow.testing.cases import CASES
from tallow.testing.onnx_nodes import cases
from tallow_importers.onnx.importer import load_model_proto

STEPS = (1, 5, -1)  # what sizes are changed by; and they become 0


@cache
def nodes() -> dict[str, list]:
    """Nodes of known sizes by operator: a few of each that ONNX's node tests and the kit's cases come to."""
    found: dict[str, dict] = {}
    graphs = [bind_dims(case.graph(case.quick[0]), case.sizes[0]) for case in CASES]
    for case in cases("node"):
        try:
            graphs.append(load_model_proto(case.model))
        except TallowError:
            continue
    for node in (node for graph in graphs for node in walk(graph)):
        types = tuple(v.type for v in node.inputs)
        known = all(isinstance(t, TensorType) and t.is_static and t.size < 4000 for t in types)
        if types and known and not node.regions and not any(map(_is_open, node.attributes.values())):
            kinds = tuple((t.rank, t.dtype.kind) for t in types)
            found.setdefault(node.op, {}).setdefault((kinds, str(node.attributes)), node)
    return {op: list(some.values())[:12] for op, some in found.items()}


def _is_open(attribute) -> bool:
    return isinstance(attribute, Expr) or (isinstance(attribute, tuple) and any(map(_is_open, attribute)))


def changed(types):
    """The operands' types with one size another."""
    for number, type_ in enumerate(types):
        for axis, size in enumerate(type_.shape):
            for other in {*(size + step for step in STEPS), 0} - {size}:
                if other >= 0:
                    shape = (*type_.shape[:axis], other, *type_.shape[axis + 1 :])
                    yield [*types[:number], TensorType(type_.dtype, shape), *types[number + 1 :]]


def values(type_: TensorType) -> np.ndarray:
    """Zeros and ones: indices that fit any axis of two."""
    drawn = np.random.default_rng(0).integers(0, 2, type_.shape)
    return (
        drawn.astype(str).astype(object) if type_.dtype.kind == "string" else drawn.astype(type_.dtype.numpy)
    )


@pytest.mark.parametrize("op", sorted(OPS))
def test_what_a_rule_takes_has_a_meaning(op):
    for node in nodes().get(op, ()):
        for types in changed([v.type for v in node.inputs]):
            try:
                inferred = OPS[op].infer(types, node.attributes)
            except TallowError:
                continue
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                try:
                    got = OPS[op].evaluate([values(t) for t in types], node.attributes)
                except TallowError:  # in words, of values that no rule sees
                    continue
            for result, type_ in zip(got, inferred, strict=True):
                if isinstance(type_, TensorType) and type_.is_static:
                    assert np.shape(result) == type_.shape, f"{op} of {', '.join(map(str, types))}"


def test_most_operators_are_tried():
    assert len(nodes()) > 100
