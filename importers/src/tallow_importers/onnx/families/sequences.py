"""Sequences and optionals of ONNX: followed while importing where their elements are known, else host steps."""

from __future__ import annotations

import onnx

from tallow.dtype import bool_, f32, i64
from tallow.graph import NothingType, OptionalType, SequenceType, TensorType, Value
from tallow.ops.sequences import sequence_element, varying
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op

UNROLLED = 32  # elements of a known sequence whose bodies are written one after the other


def _defines(context: Context, element) -> dict:
    """The attribute that names the sizes which taking out an element binds."""
    names = tuple(context.fresh_name() for _ in range(varying(element)))
    return {"defines": names} if names else {}


def _known_place(context: Context, index: Value | None, length: int, default: int) -> int | None:
    """A position in a sequence of known length, or None if only the run can tell or refuse it."""
    if index is None:
        return default
    known = context.array(index)
    if known is None:
        return None
    at = int(known.reshape(()))
    at = at + length if at < 0 else at
    return at if 0 <= at < length else None


@onnx_op("SequenceConstruct")
def sequence_construct(context: Context, node: NodeView) -> Value:
    nothing = NothingType(node.input(0).dtype)
    return context.builder.sequence(*node.inputs, element=nothing)


@onnx_op("SequenceEmpty")
def sequence_empty(context: Context, node: NodeView) -> Value:
    dtype = context.dtype(node.attribute("dtype")) if node.attribute("dtype") else f32
    return context.builder.sequence(element=NothingType(dtype))


@onnx_op("SequenceAt")
def sequence_at(context: Context, node: NodeView) -> Value:
    sequence, index = node.inputs
    known = context.builder.elements.get(sequence)
    if known is not None:
        at = _known_place(context, index, len(known), 0)
        if at is not None:
            return known[at]
    element = sequence_element("SequenceAt", sequence.type)
    return context.builder.sequence_at(sequence, index, **_defines(context, element))


@onnx_op("SequenceInsert")
def sequence_insert(context: Context, node: NodeView) -> Value:
    return context.builder.sequence_insert(*(v for v in node.inputs if v is not None))


@onnx_op("SequenceErase")
def sequence_erase(context: Context, node: NodeView) -> Value:
    return context.builder.sequence_erase(*(v for v in node.inputs if v is not None))


@onnx_op("SequenceLength")
def sequence_length(context: Context, node: NodeView) -> Value:
    known = context.builder.elements.get(node.input(0))
    if known is not None:
        return context.builder.scalar(len(known), i64)
    return context.builder.sequence_length(node.input(0))


@onnx_op("ConcatFromSequence")
def concat_from_sequence(context: Context, node: NodeView) -> Value:
    b, sequence = context.builder, node.input(0)
    stacked = bool(node.attribute("new_axis", 0))
    element = sequence_element("ConcatFromSequence", sequence.type)
    if not isinstance(element, TensorType):
        context.unsupported(f"elements of unknown or differing rank ({sequence.type})")
    axis = context.axis(node.attribute("axis"), element.rank + stacked)
    known = b.elements.get(sequence)
    if known:
        if stacked:
            known = [b.reshape(v, shape=(*v.shape[:axis], 1, *v.shape[axis:])) for v in known]
        return b.concat(*known, axis=axis)
    kept = element.shape if stacked else (*element.shape[:axis], *element.shape[axis + 1 :])
    inner = TensorType(element.dtype, kept)
    names = (context.fresh_name(), *(context.fresh_name() for _ in range(varying(inner))))
    return b.sequence_join(sequence, axis=axis, stacked=stacked, defines=names)


@onnx_op("SplitToSequence")
def split_to_sequence(context: Context, node: NodeView) -> Value:
    x, sizes = node.input(0), node.input(1)
    b, axis = context.builder, context.axis(node.attribute("axis", 0), x.rank)
    keep = sizes is not None or bool(node.attribute("keepdims", 1))
    parts = _split_sizes(context, x.shape[axis], sizes)
    if parts is not None:
        return b.sequence(*_parts(context, x, axis, parts, keep), element=NothingType(x.dtype))
    given = b.scalar(1, i64) if sizes is None else b.cast(sizes, dtype=i64)
    return b.sequence_split(x, given, axis=axis, keepdims=keep)


def _split_sizes(context: Context, extent, sizes: Value | None) -> list | None:
    """The sizes of all parts while they are few and known."""
    if sizes is not None and sizes.rank:
        known = context.dims(sizes)
        return None if known is None or any(d is None for d in known) else known
    each = context.dims(sizes)[0] if sizes is not None else 1
    if not isinstance(extent, int) or not isinstance(each, int) or each < 1:
        return None
    count = -(-extent // each)
    return [min(each, extent - each * i) for i in range(count)] if count <= UNROLLED else None


def _parts(context: Context, x: Value, axis: int, sizes: list, keep: bool):
    """Slices of the given sizes one after the other, without the axis if it is not kept."""
    start = 0
    for size in sizes:
        starts = tuple(start if a == axis else 0 for a in range(x.rank))
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        part = context.builder.slice(x, starts=starts, steps=(1,) * x.rank, shape=shape)
        yield part if keep else context.builder.reshape(part, shape=(*shape[:axis], *shape[axis + 1 :]))
        start = start + size


@onnx_op("SequenceMap")
def sequence_map(context: Context, node: NodeView) -> list[Value]:
    """The body once for each element of a known sequence; otherwise ONNX's own definition, a loop."""
    body = node.attribute("body")
    length = len(context.builder.elements.get(node.input(0), ()))
    known = [
        context.builder.elements.get(v, ()) if isinstance(v.type, SequenceType) else (v,) * length
        for v in node.inputs
    ]
    if not 0 < length <= UNROLLED or any(len(k) != length for k in known):
        context.unsupported("a sequence whose elements are not known while importing")
    results = []
    for position in range(length):
        given = dict(zip((i.name for i in body.input), (k[position] for k in known), strict=True))
        results.append(context.inline(body, given))
    return [
        context.builder.sequence(*column, element=NothingType(column[0].dtype))
        for column in zip(*results, strict=True)
    ]


@onnx_op("Optional")
def optional(context: Context, node: NodeView) -> Value:
    if node.input(0) is not None:
        return context.builder.optional(node.input(0), element=node.input(0).type)
    proto: onnx.TypeProto = node.attribute("type")
    if proto is None:
        context.unsupported("an Optional with neither an element nor a type")
    return context.builder.optional(element=context.importer.element_of(proto, "an Optional"))


@onnx_op("OptionalHasElement")
def optional_has_element(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    if x is None or not isinstance(x.type, OptionalType):
        return b.scalar(x is not None, bool_)
    if x in b.elements:
        return b.scalar(bool(b.elements[x]), bool_)
    return b.optional_has(x)


@onnx_op("OptionalGetElement")
def optional_get_element(context: Context, node: NodeView) -> Value:
    x, b = node.input(0), context.builder
    if not isinstance(x.type, OptionalType):
        return x
    if b.elements.get(x):
        return b.elements[x][0]
    return b.optional_get(x, **_defines(context, x.type.element))
